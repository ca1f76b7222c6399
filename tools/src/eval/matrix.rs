//! Several models on several texts: calibration by evaluation.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::matching::Matching;
use super::{Text, shown, to_json};
use crate::bootstrap::{CONFIDENCE, Estimate, FEWEST, RESAMPLES};
use crate::evaluate::Evaluation;
use crate::failure::Failure;
use crate::lexical::Kind;
use crate::subjects::Subject;

/// What was found of every model on every text.
pub(super) struct Matrix<'a> {
    pub(super) subjects: &'a [Subject],
    pub(super) texts: &'a [Text],
    pub(super) reference: Option<&'a Path>,
    /// Of each text, of each model.
    pub(super) found: &'a [Vec<Evaluation>],
}

impl Matrix<'_> {
    pub(super) fn write(&self, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
        match json {
            true => writeln!(out, "{:#}", self.to_json())?,
            false => self.markdown(out)?,
        }
        Ok(())
    }

    fn matchings(&self) -> impl Iterator<Item = Matching<'_>> {
        self.texts.iter().zip(self.found).filter_map(|(text, found)| Matching::of(text, self.subjects, found))
    }

    fn to_json(&self) -> Value {
        let of_text = |(text, found): (&Text, &Vec<Evaluation>)| -> Vec<Value> {
            let cell = |(subject, found): (&Subject, &Evaluation)| {
                let mut all = to_json(text, found);
                all.extend([("model".to_owned(), json!(subject.label)), ("text".to_owned(), json!(text.name))]);
                Value::Object(all)
            };
            self.subjects.iter().zip(found).map(cell).collect()
        };
        let model = |subject: &Subject| {
            json!({
                "label": subject.label,
                "path": subject.path.to_string_lossy(),
                "reseed_of": subject.reseed_of.map(|of| self.subjects[of].label.as_str()),
            })
        };
        let text = |(text, found): (&Text, &Vec<Evaluation>)| {
            let total = found[0].total();
            json!({
                "name": text.name,
                "language": text.language.map(|l| l.name()),
                "windows": text.windows.len(),
                "context": text.context,
                "documents": found[0].scored_documents(),
                "tokens": total.unsplit_tokens,
                "bytes": total.bytes,
            })
        };
        json!({
            "models": self.subjects.iter().map(model).collect::<Vec<_>>(),
            "texts": self.texts.iter().zip(self.found).map(text).collect::<Vec<_>>(),
            "reference": self.reference.map(|path| path.to_string_lossy()),
            "cells": self.texts.iter().zip(self.found).flat_map(of_text).collect::<Vec<_>>(),
            "matching": self.matchings().map(|m| m.to_json()).collect::<Vec<_>>(),
            "confidence": CONFIDENCE,
            "resamples": RESAMPLES,
        })
    }

    fn markdown(&self, out: &mut dyn Write) -> Result<(), Failure> {
        self.describe_texts(out)?;
        if self.reference.is_some() {
            self.table("ln of the perplexity, by the reference's", &|e| e.ln_ratio(), 4, out)?;
        }
        self.table("perplexity", &|e| e.perplexity_unsplit(), 4, out)?;
        self.table("bits per byte", &|e| e.bits_per_byte(), 4, out)?;
        if self.reference.is_some() {
            self.table("mean KL to the reference, nats", &|e| e.mean_kl(), 4, out)?;
            self.table("99th percentile of KL to the reference, nats", &|e| e.kl_percentile(99.0), 3, out)?;
            self.table("top-1 agreement with the reference", &|e| e.agreement(), 4, out)?;
        }
        self.table("next-token accuracy", &|e| e.accuracy(), 4, out)?;
        for (text, found) in self.texts.iter().zip(self.found) {
            self.kinds(text, found, out)?;
        }
        let matchings: Vec<String> = self.matchings().map(|m| m.sentence()).collect();
        if !matchings.is_empty() {
            writeln!(out, "\n### does the matching calibration win?\n")?;
            matchings.iter().try_for_each(|sentence| writeln!(out, "- {sentence}"))?;
        }
        Ok(())
    }

    fn describe_texts(&self, out: &mut dyn Write) -> Result<(), Failure> {
        let each = self.texts.iter().zip(self.found).map(|(text, found)| {
            let (windows, documents) = (text.windows.len(), found[0].scored_documents());
            let few = if documents < FEWEST { ", too few for intervals" } else { "" };
            format!("{}: {windows} windows of {} tokens, {documents} documents{few}", text.name, text.context)
        });
        writeln!(out, "{}", each.collect::<Vec<_>>().join("; "))?;
        Ok(writeln!(
            out,
            "Rows: models; columns: texts; in brackets {:.0} % intervals, documents resampled; bold: calibrated for the text.",
            100.0 * CONFIDENCE
        )?)
    }

    fn table(
        &self,
        title: &str,
        of: &dyn Fn(&Evaluation) -> Estimate,
        digits: usize,
        out: &mut dyn Write,
    ) -> Result<(), Failure> {
        writeln!(out, "\n### {title}\n")?;
        head("calibration", self.texts.iter().map(|text| text.name.as_str()), out)?;
        for (i, subject) in self.subjects.iter().enumerate() {
            let cell = |(text, found): (&Text, &Vec<Evaluation>)| {
                let shown = shown(of(&found[i]), digits);
                if self.own_label(subject) == text.name { format!("**{shown}**") } else { shown }
            };
            let cells: Vec<String> = self.texts.iter().zip(self.found).map(cell).collect();
            writeln!(out, "| {} | {} |", subject.label, cells.join(" | "))?;
        }
        Ok(())
    }

    /// Accuracy by what the tokens are, of a text in a language.
    fn kinds(&self, text: &Text, found: &[Evaluation], out: &mut dyn Write) -> Result<(), Failure> {
        let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|k| found[0].accuracy_of(*k).is_some()).collect();
        if kinds.is_empty() {
            return Ok(());
        }
        writeln!(out, "\n### next-token accuracy in {}, by what the token is\n", text.name)?;
        let total = found[0].total();
        let names: Vec<String> =
            kinds.iter().map(|k| format!("{} ({})", k.name(), total.kinds[*k as usize].0)).collect();
        head("calibration", names.iter().map(String::as_str), out)?;
        for (subject, found) in self.subjects.iter().zip(found) {
            let cells = kinds.iter().filter_map(|k| found.accuracy_of(*k)).map(|e| shown(e, 4));
            writeln!(out, "| {} | {} |", subject.label, cells.collect::<Vec<_>>().join(" | "))?;
        }
        Ok(())
    }

    /// The label of the model, or of the one that this is another seed of.
    fn own_label<'b>(&'b self, subject: &'b Subject) -> &'b str {
        subject.reseed_of.map_or(&subject.label, |of| &self.subjects[of].label)
    }
}

fn head<'a>(first: &str, names: impl Iterator<Item = &'a str>, out: &mut dyn Write) -> Result<(), Failure> {
    let names: Vec<&str> = names.collect();
    writeln!(out, "| {first} | {} |", names.join(" | "))?;
    Ok(writeln!(out, "|---|{}", "---:|".repeat(names.len()))?)
}
