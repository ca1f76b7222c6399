//! Whether the calibration that matches a text wins on it, and by more than another seed would make.

use serde_json::{Value, json};

use super::Text;
use crate::bootstrap::Estimate;
use crate::evaluate::Evaluation;
use crate::subjects::Subject;

/// A text and the model of its name, against all others.
#[derive(Clone, Debug)]
pub(super) struct Matching<'a> {
    text: &'a str,
    /// What each of the others loses more, nats a token.
    others: Vec<(&'a str, Estimate)>,
    /// The same of the model's other seeds.
    seeds: Vec<(&'a str, Estimate)>,
}

impl<'a> Matching<'a> {
    /// Of a text that has a model of its name and others to compare it with.
    pub(super) fn of(text: &'a Text, subjects: &'a [Subject], found: &[Evaluation]) -> Option<Self> {
        let own = subjects.iter().position(|s| s.reseed_of.is_none() && s.label == text.name)?;
        let above = |wanted: &dyn Fn(&Subject) -> bool| -> Vec<(&'a str, Estimate)> {
            let others = subjects.iter().zip(found).filter(|(s, _)| wanted(s));
            others.map(|(s, found_of)| (s.label.as_str(), found_of.nats_above(&found[own]))).collect()
        };
        let others = above(&|s| s.reseed_of.is_none() && s.label != text.name);
        let seeds = above(&|s| s.reseed_of == Some(own));
        (!others.is_empty() || !seeds.is_empty()).then_some(Matching { text: &text.name, others, seeds })
    }

    /// One sentence or two.
    pub(super) fn sentence(&self) -> String {
        let text = self.text;
        let each = |all: &[(&str, Estimate)]| {
            all.iter().map(|(label, e)| format!("{label} {}", signed(*e))).collect::<Vec<_>>().join(", ")
        };
        let mut said = format!("**{text}**: nats a token above the model calibrated for it: {}", each(&self.others));
        match self.seeds.is_empty() {
            true => said += "; no --reseed, so it is not known what another seed makes",
            false => said += &format!("; another seed of it: {}", each(&self.seeds)),
        }
        let verdict = self.verdict();
        format!("{said}. {verdict}")
    }

    fn verdict(&self) -> String {
        let noise = self.seeds.iter().map(|(_, e)| e.value.abs()).fold(0.0, f64::max);
        let is_worse = |e: &Estimate| e.value > noise && e.interval.is_some_and(|(low, _)| low > 0.0);
        let worse = self.others.iter().filter(|(_, e)| is_worse(e)).count();
        if self.others.iter().any(|(_, e)| e.interval.is_none()) {
            return "There are too few documents to tell.".to_owned();
        }
        let beyond = if self.seeds.is_empty() { "" } else { " and by more than another seed" };
        match (worse, self.others.len()) {
            (_, 0) => String::new(),
            (worse, all) if worse == all => format!("Its own calibration is best, with intervals above 0{beyond}."),
            (0, _) => format!("No other is worse with an interval above 0{beyond}."),
            (worse, all) => format!("{worse} of {all} others are worse with an interval above 0{beyond}."),
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let each = |all: &[(&str, Estimate)]| -> Vec<Value> {
            let one = |(label, e): &(&str, Estimate)| json!({"model": label, "nats": e.value, "interval": e.interval.map(|(low, high)| [low, high])});
            all.iter().map(one).collect()
        };
        json!({"text": self.text, "others": each(&self.others), "reseeds": each(&self.seeds)})
    }
}

fn signed(e: Estimate) -> String {
    match e.interval {
        Some((low, high)) => format!("{:+.4} ({low:+.4} to {high:+.4})", e.value),
        None => format!("{:+.4}", e.value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::Sums;

    fn text() -> Text {
        Text { name: "python".into(), language: None, context: 8, windows: Vec::new() }
    }

    fn subject(label: &str, reseed_of: Option<usize>) -> Subject {
        Subject { label: label.into(), path: label.into(), reseed_of }
    }

    /// 30 documents of 10 tokens, each of `nats` more or less by `spread`.
    fn found(nats: f64, spread: f64) -> Evaluation {
        found_of(30, nats, spread)
    }

    fn found_of(documents: usize, nats: f64, spread: f64) -> Evaluation {
        let sums = |i: usize| Sums {
            tokens: 10,
            unsplit_tokens: 10,
            bytes: 40,
            nll: 10.0 * (nats + if i.is_multiple_of(2) { spread } else { -spread }),
            ..Sums::default()
        };
        Evaluation { documents: (0..documents).map(sums).collect(), divergences: Vec::new() }
    }

    #[test]
    fn own_calibration_wins_if_all_others_are_worse_than_noise() {
        let subjects = [subject("python", None), subject("java", None), subject("python (reseed 1)", Some(0))];
        let text = text();
        let sentence = |java: Evaluation| {
            let found = [found(1.0, 0.0), java, found(1.05, 0.0)];
            Matching::of(&text, &subjects, &found).unwrap().sentence()
        };
        let said = sentence(found(1.2, 0.01));
        assert!(said.contains("java +0.2000 (+0.1") && said.contains("another seed of it: python (reseed 1) +0.0500"));
        assert!(said.ends_with("Its own calibration is best, with intervals above 0 and by more than another seed."));
        let said = sentence(found(1.04, 0.0));
        assert!(said.ends_with("No other is worse with an interval above 0 and by more than another seed."), "{said}");
        let said = sentence(found(1.2, 2.0));
        assert!(said.ends_with("No other is worse with an interval above 0 and by more than another seed."), "{said}");
    }

    #[test]
    fn few_documents_tell_nothing() {
        let (subjects, text) = ([subject("python", None), subject("java", None)], text());
        let found = [found_of(3, 1.0, 0.0), found_of(3, 2.0, 0.0)];
        let said = Matching::of(&text, &subjects, &found).unwrap().sentence();
        assert!(said.contains("java +1.0000; no --reseed") && said.ends_with("There are too few documents to tell."));
    }

    #[test]
    fn a_text_without_its_own_model_matches_none() {
        let subjects = [subject("java", None), subject("cpp", None)];
        assert!(Matching::of(&text(), &subjects, &[found(1.0, 0.0), found(1.1, 0.0)]).is_none());
        let only = [subject("python", None)];
        assert!(Matching::of(&text(), &only, &[found(1.0, 0.0)]).is_none());
    }
}
