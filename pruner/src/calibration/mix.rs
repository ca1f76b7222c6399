//! Shares of several domains, and the order in which their windows come.

use std::fmt;

use super::domain::Domain;
use crate::error::Error;
use crate::stream::HELD_OUT;

/// Shares of tokens by domain, as `python:0.7,code:0.2,text:0.1`. They need not add up to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Mix(Vec<(Domain, f64)>);

impl Mix {
    /// The domains and their shares, as given.
    pub fn shares(&self) -> &[(Domain, f64)] {
        &self.0
    }
}

impl std::str::FromStr for Mix {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut shares: Vec<(Domain, f64)> = Vec::new();
        for part in text.split(',') {
            let (name, share) =
                part.split_once(':').ok_or_else(|| refuse(part, "DOMAIN:SHARE, such as `python:0.7`"))?;
            let domain = name.trim().parse()?;
            if shares.iter().any(|(other, _)| *other == domain) {
                return Err(refuse(part, "each domain once"));
            }
            let share = share.trim().parse().ok().filter(|share| is_share(*share));
            shares.push((domain, share.ok_or_else(|| refuse(part, "a share above 0"))?));
        }
        Ok(Mix(shares))
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|(domain, share)| format!("{domain}:{share}")).collect();
        f.write_str(&parts.join(","))
    }
}

/// Whether a mix can have such a share. The bound keeps sums finite.
pub(super) fn is_share(share: f64) -> bool {
    share > 0.0 && share <= 1e9
}

pub(super) fn refuse(part: &str, expected: &str) -> Error {
    Error::option("mix", part, expected)
}

/// Which domain each of `nsamples` windows is of, by its place in `shares`, whose sum is 1.
///
/// Windows that are held out and those that are not are dealt on their own, and in each of the two the next window goes to
/// the domain that lacks most of its share: so every beginning of either holds the mix as nearly as whole windows can.
pub(super) fn deal(shares: &[f64], nsamples: usize) -> Vec<usize> {
    let mut hands = [vec![0; shares.len()], vec![0; shares.len()]];
    let is_held_out = |nth: usize| nth.is_multiple_of(HELD_OUT);
    (1..=nsamples).map(|nth| deal_one(shares, &mut hands[usize::from(is_held_out(nth))])).collect()
}

fn deal_one(shares: &[f64], hand: &mut [usize]) -> usize {
    let windows = (hand.iter().sum::<usize>() + 1) as f64;
    let lacking = |i: usize| shares[i] * windows - hand[i] as f64;
    // Sums of shares are not exact: the first of those that lack the same must not depend on that.
    let next = (1..shares.len()).fold(0, |best, i| if lacking(i) > lacking(best) + 1e-9 { i } else { best });
    hand[next] += 1;
    next
}

/// How many windows of `dealt`, from the first on, can be made where each domain has text for as many as `left` says; 0 if
/// a domain would have none of them.
pub(super) fn fitting(dealt: &[usize], mut left: Vec<usize>) -> usize {
    let mut has_one = vec![false; left.len()];
    let fits = |domain: &&usize| {
        has_one[**domain] |= left[**domain] > 0;
        left[**domain].checked_sub(1).map(|rest| left[**domain] = rest).is_some()
    };
    let n = dealt.iter().take_while(fits).count();
    if has_one.contains(&false) { 0 } else { n }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shares_are_read_and_refused_by_name() {
        let mix: Mix = "python:0.7, code:2,text:1e-1".parse().unwrap();
        let domains: Vec<&str> = mix.shares().iter().map(|(domain, _)| domain.name()).collect();
        assert_eq!(domains, ["python", "code", "text"]);
        assert_eq!(mix.to_string(), "python:0.7,code:2,text:0.1");
        for (text, problem) in [
            ("python", "mix `python`: expected DOMAIN:SHARE"),
            ("", "mix ``: expected DOMAIN:SHARE"),
            ("python:0.5,", "mix ``: expected DOMAIN:SHARE"),
            ("perl:1", "domain `perl`: expected"),
            ("any text:1", "domain `any text`: expected"),
            ("python:0", "mix `python:0`: expected a share above 0"),
            ("python:-1", "expected a share above 0"),
            ("python:nan", "expected a share above 0"),
            ("python:inf", "expected a share above 0"),
            ("python:x", "expected a share above 0"),
            ("python:1,python:2", "mix `python:2`: expected each domain once"),
        ] {
            let message = text.parse::<Mix>().unwrap_err().to_string();
            assert!(message.contains(problem), "{text}: {message}");
        }
    }

    #[test]
    fn fewer_windows_are_the_beginning_of_more() {
        let dealt = deal(&[0.5, 0.5], 8);
        assert_eq!(dealt, [0, 1, 0, 1, 0, 1, 0, 1]);
        assert_eq!(fitting(&dealt, vec![4, 4]), 8);
        assert_eq!(fitting(&dealt, vec![2, 9]), 4);
        assert_eq!(fitting(&dealt, vec![9, 2]), 5);
        assert_eq!(fitting(&dealt, vec![9, 0]), 0, "no window of the second");
        assert_eq!(fitting(&[0, 0, 0], vec![2]), 2);
        assert_eq!(fitting(&[0, 0, 0], vec![0]), 0);
    }

    #[test]
    fn a_mix_of_tenths_is_not_in_step_with_the_tenth_that_is_held_out() {
        let dealt = deal(&[0.7, 0.2, 0.1], 100);
        let held_out: Vec<usize> = dealt.iter().skip(9).step_by(10).copied().collect();
        for (domain, expected) in [(0, 7), (1, 2), (2, 1)] {
            assert_eq!(held_out.iter().filter(|d| **d == domain).count(), expected, "{held_out:?}");
        }
    }

    proptest! {
        #[test]
        fn every_beginning_holds_the_mix(parts in prop::collection::vec(0.01f64..1.0, 1..5), nsamples in 1usize..300) {
            let sum: f64 = parts.iter().sum();
            let shares: Vec<f64> = parts.iter().map(|p| p / sum).collect();
            let dealt = deal(&shares, nsamples);
            let held_out: Vec<usize> = dealt.iter().skip(HELD_OUT - 1).step_by(HELD_OUT).copied().collect();
            for (dealt, bound) in [(&dealt, 4.0), (&held_out, 2.0)] {
                for end in 1..=dealt.len() {
                    for (domain, share) in shares.iter().enumerate() {
                        let have = dealt[..end].iter().filter(|d| **d == domain).count() as f64;
                        prop_assert!((have - share * end as f64).abs() < bound, "{domain} of {shares:?}: {have} of {end}");
                    }
                }
            }
        }
    }
}
