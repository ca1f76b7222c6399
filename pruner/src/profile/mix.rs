//! The cheapest mix: of several choices for each item, one each, so that the sum of losses is least for a sum of bytes.
//!
//! Of each item only the choices on the lower convex hull of (bytes, loss) can be best for some price of a byte. Items start
//! at their fewest bytes, and the step along a hull that saves most loss a byte is taken first, as long as it fits.

/// One way to store an item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Choice {
    pub(super) bytes: u64,
    pub(super) loss: f64,
}

/// The index of the choice for every item, or the fewest bytes that are possible if that is above `budget`.
pub(super) fn cheapest(items: &[Vec<Choice>], budget: u64) -> Result<Vec<usize>, u64> {
    let hulls: Vec<Vec<usize>> = items.iter().map(|choices| hull(choices)).collect();
    let mut at = vec![0; items.len()];
    let mut bytes: u64 = items.iter().zip(&hulls).map(|(choices, hull)| choices[hull[0]].bytes).sum();
    if bytes > budget {
        return Err(bytes);
    }
    let mut steps: Vec<Step> = items.iter().zip(&hulls).enumerate().flat_map(|(i, (c, h))| steps_of(i, c, h)).collect();
    // Stable, so that of equal steps the earlier item's comes first; along a hull gains fall.
    steps.sort_by(|a, b| b.gain.total_cmp(&a.gain));
    for step in steps {
        if at[step.item] + 1 == step.to && bytes + step.bytes <= budget {
            (at[step.item], bytes) = (step.to, bytes + step.bytes);
        }
    }
    Ok(at.iter().zip(&hulls).map(|(at, hull)| hull[*at]).collect())
}

/// From one corner of an item's hull to the next.
struct Step {
    item: usize,
    to: usize,
    bytes: u64,
    /// Loss saved a byte.
    gain: f64,
}

fn steps_of(item: usize, choices: &[Choice], hull: &[usize]) -> Vec<Step> {
    let pairs = hull.windows(2).enumerate();
    pairs
        .map(|(i, pair)| {
            let (from, to) = (choices[pair[0]], choices[pair[1]]);
            let bytes = to.bytes - from.bytes;
            Step { item, to: i + 1, bytes, gain: (from.loss - to.loss) / bytes as f64 }
        })
        .collect()
}

/// The corners of the lower hull, by rising bytes and falling loss.
fn hull(choices: &[Choice]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..choices.len()).collect();
    order.sort_by(|&a, &b| choices[a].bytes.cmp(&choices[b].bytes).then(choices[a].loss.total_cmp(&choices[b].loss)));
    let mut corners: Vec<usize> = Vec::new();
    for i in order {
        let c = choices[i];
        if corners.last().is_some_and(|&last| choices[last].loss <= c.loss || choices[last].bytes == c.bytes) {
            continue;
        }
        while let [.., a, b] = corners[..] {
            if slope(choices[a], choices[b]) > slope(choices[b], c) {
                corners.pop();
            } else {
                break;
            }
        }
        corners.push(i);
    }
    corners
}

/// Loss a byte, negative.
fn slope(from: Choice, to: Choice) -> f64 {
    (to.loss - from.loss) / (to.bytes - from.bytes) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn total(items: &[Vec<Choice>], chosen: &[usize]) -> (u64, f64) {
        let of = items.iter().zip(chosen).map(|(choices, &i)| choices[i]);
        of.fold((0, 0.0), |(bytes, loss), c| (bytes + c.bytes, loss + c.loss))
    }

    /// The best of all combinations.
    fn exhaustive(items: &[Vec<Choice>], budget: u64) -> f64 {
        items
            .iter()
            .fold(vec![(0, 0.0)], |sums: Vec<(u64, f64)>, choices| {
                sums.iter().flat_map(|s| choices.iter().map(|c| (s.0 + c.bytes, s.1 + c.loss))).collect()
            })
            .into_iter()
            .filter(|s| s.0 <= budget)
            .fold(f64::INFINITY, |least, s| least.min(s.1))
    }

    proptest! {
        /// Never above the budget, and off the best by less than the dearest single step.
        #[test]
        fn mixes_are_all_but_the_best(
            items in prop::collection::vec(prop::collection::vec((1u64..40, 0u32..100), 1..6), 1..6),
            budget in 1u64..200,
        ) {
            let items: Vec<Vec<Choice>> = items
                .into_iter()
                .map(|c| c.into_iter().map(|(bytes, loss)| Choice { bytes, loss: f64::from(loss) }).collect())
                .collect();
            let least: u64 = items.iter().map(|c| c.iter().map(|c| c.bytes).min().unwrap()).sum();
            match cheapest(&items, budget) {
                Err(bytes) => {
                    prop_assert!(least > budget);
                    prop_assert_eq!(bytes, least);
                }
                Ok(chosen) => {
                    let (bytes, loss) = total(&items, &chosen);
                    prop_assert!(bytes <= budget);
                    let widest = items.iter().map(|c| {
                        let losses = || c.iter().map(|c| c.loss);
                        losses().fold(0.0, f64::max) - losses().fold(f64::INFINITY, f64::min)
                    });
                    prop_assert!(loss <= exhaustive(&items, budget) + widest.fold(0.0, f64::max));
                }
            }
        }
    }

    #[test]
    fn bytes_go_where_they_save_most() {
        let c = |bytes, loss| Choice { bytes, loss };
        let items = vec![vec![c(10, 5.0), c(20, 1.0), c(15, 4.9)], vec![c(10, 5.0), c(20, 4.0)]];
        assert_eq!(cheapest(&items, 30), Ok(vec![1, 0]));
        assert_eq!(cheapest(&items, 40), Ok(vec![1, 1]));
        assert_eq!(cheapest(&items, 29), Ok(vec![0, 0]));
        assert_eq!(cheapest(&items, 19), Err(20));
    }
}
