//! The size of the effect in sentences, each with its number.

use super::Overlap;

/// What was found, the most important first.
pub(super) fn sentences(overlap: &Overlap) -> Vec<String> {
    [between(overlap), noise(overlap), chance(overlap), effect(overlap), alone(overlap)].into_iter().flatten().collect()
}

/// For people: a share in percent.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn between(overlap: &Overlap) -> Option<String> {
    let all = overlap.reading(&|_| true).between?;
    let labels = overlap.labels();
    let mut pairs: Vec<(f64, String)> = overlap
        .family
        .different_pairs()
        .map(|(a, b)| (overlap.shared(a, b, &|_| true).difference(), format!("{} and {}", labels[a], labels[b])))
        .collect();
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
    Some(match &pairs[..] {
        [(difference, pair)] => format!("Masks of {pair} differ in {} of the kept weights.", percent(*difference)),
        [(least, near), .., (most, far)] => format!(
            "Masks of different models differ in {} of the kept weights: {near} least, in {}; {far} most, in {}.",
            percent(all.difference()),
            percent(*least),
            percent(*most)
        ),
        [] => return None,
    })
}

fn noise(overlap: &Overlap) -> Option<String> {
    let Some(_) = overlap.reading(&|_| true).reseeded else {
        return Some(
            "No --reseed was given, so it cannot be told how much of that another seed of the calibration changes too."
                .to_owned(),
        );
    };
    let labels = overlap.labels();
    let own = labels.iter().enumerate().filter_map(|(i, label)| {
        let difference = overlap.reseeded(i)?.difference();
        Some(format!("two random calibrations of {label} differ in {}", percent(difference)))
    });
    let text = own.collect::<Vec<_>>().join("; ");
    Some(format!("{}.", capital(&text)))
}

fn chance(overlap: &Overlap) -> Option<String> {
    let reading = overlap.reading(&|_| true);
    let shared = reading.between.or(reading.reseeded)?;
    Some(format!("Random masks of the same densities differ in {}.", percent(shared.chance_difference())))
}

/// How far calibration on another language moves a mask, from noise to chance.
fn effect(overlap: &Overlap) -> Option<String> {
    let reading = overlap.reading(&|_| true);
    let (between, reseeded) = (reading.between?, reading.reseeded?);
    if overlap.has_same_calibration() {
        return None;
    }
    let (found, noise, chance) = (between.difference(), reseeded.difference(), between.chance_difference());
    let matrices = overlap.matrices.iter().map(|m| overlap.reading_of(m));
    let above = matrices.filter(|r| r.between.zip(r.reseeded).is_some_and(|(b, r)| b.difference() > r.difference()));
    let above = format!("in {} of {} matrices", above.count(), overlap.matrices.len());
    Some(if found > noise {
        let way = (found - noise) / (chance - noise).max(f64::MIN_POSITIVE);
        format!(
            "Beyond noise another calibration text changes {} of the kept weights, {} of the way from noise to chance; it \
             changes more than another seed {above}.",
            percent(found - noise),
            percent(way)
        )
    } else {
        format!(
            "Another calibration text changes no more than another seed does: these masks show no effect of it (it changes \
             more {above})."
        )
    })
}

fn alone(overlap: &Overlap) -> Option<String> {
    let labels = overlap.labels();
    if labels.len() < 2 {
        return None;
    }
    let each = labels.iter().enumerate().map(|(i, label)| {
        let alone = overlap.alone(i, &|_| true);
        let again = alone.again_share().map(|share| format!(", {} of them again with another seed", percent(share)));
        format!("{label} {}{}", percent(alone.share()), again.unwrap_or_default())
    });
    let chance = overlap.alone(0, &|_| true).chance_share();
    Some(format!(
        "Of all weights, kept by one model alone: {}; by chance it would be about {}.",
        each.collect::<Vec<_>>().join("; "),
        percent(chance)
    ))
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
