//! How far long work is, on standard error.

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use pruner::Progress;

use crate::notes::Notes;

/// Shows how far some work through all layers is: as a bar, or as a line a layer where nobody watches a terminal.
pub struct Shown<'a> {
    what: &'static str,
    bar: ProgressBar,
    started: Instant,
    /// The layer whose line was written last.
    written: Option<usize>,
    interrupted: &'a AtomicBool,
}

impl<'a> Shown<'a> {
    /// Nothing is shown yet; stops the work once `interrupted`.
    pub fn new(what: &'static str, interrupted: &'a AtomicBool) -> Self {
        Shown { what, bar: progress_bar(), started: Instant::now(), written: None, interrupted }
    }

    /// Shows `p`.
    pub fn show(&mut self, p: Progress) -> ControlFlow<()> {
        let left = self.left(p);
        self.bar.set_length(p.total);
        self.bar.set_position(p.done);
        let Shown { what, .. } = self;
        self.bar.set_message(format!("{what}: layer {} of {}, {}{left}", p.layer, p.layers, p.step));
        if self.bar.is_hidden() && self.written != Some(p.layer) && p.layer < p.layers {
            self.written = Some(p.layer);
            // If standard error is closed there is nobody left to tell.
            let _ = writeln!(Notes, "{what}: layer {} of {}{left}", p.layer, p.layers);
        }
        if self.interrupted.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// What to say of the time left: nothing before a hundredth is done, of which the beginning is too large a part.
    fn left(&self, p: Progress) -> String {
        let own = p.done.saturating_sub(p.resumed);
        let rest = p.total.saturating_sub(p.done);
        if own == 0 || own < (own + rest) / 100 {
            return String::new();
        }
        let left = self.started.elapsed().mul_f64(rest as f64 / own as f64);
        format!(", about {} left", HumanDuration(left))
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// A bar that tells percents, of work whose length is set later.
pub fn progress_bar() -> ProgressBar {
    bar(1, "{bar:30} {percent:>3}%  {msg}")
}

/// A bar that counts `n` of `what`.
pub fn counting_bar(n: usize, what: &str) -> ProgressBar {
    bar(n, &format!("{{bar:30}} {{pos}}/{{len}} {what}, {{eta}} left, {{msg}}"))
}

/// A bar on standard error; hidden where that is no terminal.
fn bar(length: usize, template: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length as u64);
    let style = ProgressStyle::with_template(template);
    style.map_or(bar.clone(), |style| bar.with_style(style))
}
