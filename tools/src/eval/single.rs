//! One model on one text.

use std::io::Write;

use serde_json::{Value, json};

use super::{Text, shown, to_json};
use crate::bootstrap::{CONFIDENCE, RESAMPLES};
use crate::evaluate::Evaluation;
use crate::failure::Failure;
use crate::lexical::Kind;

pub(super) fn write(text: &Text, found: &Evaluation, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    if json {
        let mut all = to_json(text, found);
        all.extend([("confidence".to_owned(), json!(CONFIDENCE)), ("resamples".to_owned(), json!(RESAMPLES))]);
        writeln!(out, "{:#}", Value::Object(all))?;
        return Ok(());
    }
    let total = found.total();
    let (windows, documents) = (text.windows.len(), found.scored_documents());
    writeln!(out, "tokens           {} in {windows} windows of {}, {documents} documents", total.tokens, text.context)?;
    writeln!(out, "perplexity       {}", shown(found.perplexity(), 4))?;
    if total.tokens != total.unsplit_tokens {
        writeln!(
            out,
            "  unsplit        {}, for each of the {} tokens of the whole vocabulary",
            shown(found.perplexity_unsplit(), 4),
            total.unsplit_tokens
        )?;
    }
    writeln!(out, "bits per byte    {}", shown(found.bits_per_byte(), 4))?;
    writeln!(out, "top-1            {}", shown(found.top1(), 4))?;
    for kind in Kind::ALL {
        if let Some(accuracy) = found.accuracy_of(kind) {
            let tokens = total.kinds[kind as usize].0;
            writeln!(out, "  {:<15}{} of {tokens}", kind.name(), shown(accuracy, 4))?;
        }
    }
    if found.is_compared() {
        writeln!(out, "ln ratio         {}", shown(found.ln_ratio(), 4))?;
        writeln!(out, "KL mean          {}", shown(found.mean_kl(), 5))?;
        writeln!(out, "KL p99           {}", shown(found.kl_percentile(99.0), 5))?;
        writeln!(out, "top-1 agreement  {}", shown(found.agreement(), 4))?;
        if total.unlisted > 0.0 {
            let mean = found.mean_unlisted();
            writeln!(out, "unlisted mass    {mean:.5}, mean probability that the reference gives to unlisted tokens")?;
        }
    }
    if found.perplexity().interval.is_some() {
        writeln!(out, "in brackets: 95 % intervals, documents resampled")?;
    }
    Ok(())
}
