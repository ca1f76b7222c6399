//! Loads both models and measures them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{CompareArgs, Compared, Quality, Side, Speed, prompts};
use crate::bench::{self, Test};
use crate::cli::Ready;
use crate::eval::{Loaded, have_one_vocabulary, on_text};
use crate::failure::Failure;
use crate::open::AnyModel;
use crate::process;
use crate::subjects::{Subject, name_of};

pub(super) fn measure(args: &CompareArgs) -> Result<Compared, Failure> {
    let interrupted = process::interrupt_flag()?;
    let prompts = prompts::read(&args.prompt, args.prompts.as_ref())?;
    let loaded = [load(&args.a, args)?, load(&args.b, args)?];
    let ready = loaded.each_ref().map(|l| &l.ready[0]);
    let sides = [side(&args.a, ready[0])?, side(&args.b, ready[1])?];
    let engine = ready[0].model.engine();
    let engine = format!("kernels {}, {} threads", engine.kernels().name(), engine.threads());
    let speeds = speeds(args, ready, &interrupted)?;
    let texts = texts(args, &loaded, &interrupted)?;
    let continuations = prompts::continue_all(ready, prompts, args.predict as usize, &interrupted)?;
    Ok(Compared { sides, engine, speeds, texts, continuations })
}

fn load(path: &Path, args: &CompareArgs) -> Result<Loaded, Failure> {
    Loaded::load(&[Subject { label: name_of(path), path: path.to_owned(), reseed_of: None }], &args.run)
}

fn side(path: &Path, ready: &Ready) -> Result<Side, Failure> {
    let paths = AnyModel::open(path)?.files(path);
    let len = |path: &PathBuf| {
        let meta = std::fs::metadata(path);
        meta.map(|m| m.len()).map_err(|e| Failure::Runtime(format!("{}: cannot see its size: {e}", path.display())))
    };
    Ok(Side {
        label: name_of(path),
        path: path.to_owned(),
        file_bytes: paths.iter().map(len).sum::<Result<u64, Failure>>()?,
        bytes_per_token: ready.model.bytes_per_token() as u64,
        sparsity: bench::sparsity(&ready.model),
        encoding: bench::encoding(&ready.model),
    })
}

fn speeds(args: &CompareArgs, ready: [&Ready; 2], interrupted: &AtomicBool) -> Result<Vec<Speed>, Failure> {
    let models = ready.map(|r| (&*r.path, Arc::clone(&r.model)));
    let tests = [Test::Prompt(args.n_prompt as usize), Test::Generate(args.n_gen as usize)];
    let mut all = Vec::new();
    for test in tests.into_iter().filter(|test| test.tokens() > 0) {
        let mut times = bench::measure(&models, test, args.repetitions.into())?.into_iter();
        all.push(Speed { test, times: [times.next(), times.next()].map(Option::unwrap_or_default) });
        if interrupted.load(Ordering::SeqCst) {
            return Err(Failure::Interrupted);
        }
    }
    Ok(all)
}

/// Both on every text: in the same tokens if they have one vocabulary, else each in its own.
fn texts(args: &CompareArgs, loaded: &[Loaded; 2], interrupted: &AtomicBool) -> Result<Vec<Quality>, Failure> {
    let ready = loaded.each_ref().map(|l| &l.ready[0]);
    let alike = have_one_vocabulary(ready[0], ready[1]);
    let context = loaded[0].context().min(loaded[1].context());
    let own = args.texts.read(&ready[0].document_tokens(), context)?;
    let others = if alike { own.clone() } else { args.texts.read(&ready[1].document_tokens(), context)? };
    let judges = alike && ready[0].model.config().shortlist.is_none();
    let (unscored, reference) = (args.texts.unscored(), judges.then_some(&ready[0].model));
    let mut all = Vec::new();
    for (own, other) in own.into_iter().zip(others) {
        let first = on_text(&loaded[0], None, &own, unscored, interrupted)?;
        let second = on_text(&loaded[1], reference, &other, unscored, interrupted)?;
        let found = [first, second].map(|of_one_model| of_one_model.into_iter().next().unwrap_or_default());
        all.push(Quality { texts: [own, other], one_vocabulary: alike, found });
    }
    Ok(all)
}
