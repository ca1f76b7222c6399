//! A Hugging Face model as a [`Checkpoint`].

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use spm::{Checkpoint, Config, Encoding, Matrix, TensorInfo, Vocabulary};

use crate::error::{Error, shown};
use crate::family::{self, Source, Whence};
use crate::folder;
use crate::json::{self, Json};
use crate::place::Place;
use crate::shard::{Shard, Stored};
use crate::tokenizer;

/// Of a `config.json`; real ones have a few thousand.
const MOST_CONFIG_BYTES: u64 = 16 << 20;

/// An opened and fully checked Hugging Face folder.
#[derive(Debug)]
pub struct HfModel {
    folder: PathBuf,
    shards: Vec<Shard>,
    config: Config,
    vocabulary: Option<Vocabulary>,
    tensors: Vec<TensorInfo>,
    places: Vec<Place>,
    by_name: HashMap<String, usize>,
}

impl HfModel {
    /// Opens the model in `folder`.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("config.json");
        if !path.exists() {
            return Err(Error::folder(folder, "has no config.json; give the folder of a Hugging Face model"));
        }
        let map = json::read(&path, MOST_CONFIG_BYTES)?;
        let json = Json::new(&path, &map);
        let family = family::find(json)?;
        let shards = folder::open_shards(folder)?;
        let names = index(&shards)?;
        let source = Source { json, has: &|name: &str| names.contains_key(name) };
        let config = (family.config)(&source)?;
        config.validate().map_err(|source| Error::Shape { path: path.clone(), source })?;
        let vocabulary = tokenizer::read(folder, json, config.vocab_size)?;
        let mut model = HfModel {
            folder: folder.to_owned(),
            config,
            vocabulary,
            tensors: Vec::new(),
            places: Vec::new(),
            by_name: HashMap::new(),
            shards: Vec::new(),
        };
        model.find_tensors(&shards, &names, family)?;
        model.shards = shards;
        Ok(model)
    }

    /// The files of the model: `config.json`, then the weights.
    pub fn paths(&self) -> Vec<PathBuf> {
        let weights = self.shards.iter().map(|shard| shard.path.clone());
        std::iter::once(self.folder.join("config.json")).chain(weights).collect()
    }

    /// Every tensor that the decoder needs is there in its shape, and there is none that it would ignore.
    fn find_tensors(
        &mut self,
        shards: &[Shard],
        names: &HashMap<&str, (usize, &Stored)>,
        family: &family::Family,
    ) -> Result<(), Error> {
        let rooted = family.names.root.is_empty() || names.keys().any(|name| name.starts_with(family.names.root));
        let mut used = HashSet::new();
        for (name, rows, cols) in self.config.tensors() {
            let Some(whence) = family.names.whence(&self.config, &name, rows) else {
                return Err(Error::tensor(&self.folder, &name, "has no name in this family"));
            };
            let stored_name = if rooted { &whence.name } else { whence.name.trim_start_matches(family.names.root) };
            let Some(&(shard, stored)) = names.get(stored_name) else {
                let problem =
                    format!("is missing ({name}, {rows}x{cols}); the folder is incomplete: download it again");
                return Err(Error::tensor(&self.folder, stored_name, problem));
            };
            used.insert(stored_name.to_owned());
            let place = place(&shards[shard].path, shard, stored, &whence, (rows, cols))?;
            self.by_name.insert(name.clone(), self.places.len());
            self.tensors.push(info(name, &place));
            self.places.push(place);
        }
        let is_left = |name: &&&str| !used.contains(**name) && !family::is_extra(name, &self.config);
        match names.keys().filter(is_left).min() {
            None => Ok(()),
            Some(extra) => {
                let problem = "has no place in a decoder of this family, which would run wrongly without it";
                Err(Error::tensor(&self.folder, extra, problem))
            }
        }
    }

    fn place(&self, name: &str) -> Option<&Place> {
        self.places.get(*self.by_name.get(name)?)
    }

    /// For kernels: as stored where they read that, else as halves, as singles if halves do not hold a value.
    fn encoding_for_kernels(&self, place: &Place) -> Encoding {
        match place.dtype {
            Dtype::BF16 if place.rows > 1 && place.fits_in_halves(&self.shards) == Some(true) => Encoding::F16,
            _ => place.exact_encoding(),
        }
    }
}

impl Checkpoint for HfModel {
    fn config(&self) -> &Config {
        &self.config
    }

    fn vocabulary(&self) -> Option<&Vocabulary> {
        self.vocabulary.as_ref()
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(*self.by_name.get(name)?)
    }

    fn read_rows(&self, name: &str, first_row: usize, out: &mut [f32]) -> Option<()> {
        self.place(name)?.read_rows(&self.shards, first_row, out)
    }

    /// Exactly what is stored of F32 and F16; BF16 as f16 where its values are within the range of that, else as f32.
    fn matrix(&self, name: &str) -> Option<Matrix> {
        let place = self.place(name)?;
        place.matrix(&self.shards, self.encoding_for_kernels(place))
    }

    /// Of BF16 as if it were to become f16.
    fn matrix_bytes(&self, name: &str) -> Option<u64> {
        let place = self.place(name)?;
        let halves = place.dtype == Dtype::BF16 && place.rows > 1;
        place.matrix_bytes(if halves { Encoding::F16 } else { place.exact_encoding() })
    }

    fn exact_matrix(&self, name: &str) -> Option<Matrix> {
        let place = self.place(name)?;
        place.matrix(&self.shards, place.exact_encoding())
    }
}

/// All tensors by name; an error if two files have one of the same name.
fn index(shards: &[Shard]) -> Result<HashMap<&str, (usize, &Stored)>, Error> {
    let mut names = HashMap::new();
    for (i, shard) in shards.iter().enumerate() {
        for stored in &shard.tensors {
            if let Some((first, _)) = names.insert(stored.name.as_str(), (i, stored)) {
                let problem = format!("is in {} too; download both files again", shards[first].path.display());
                return Err(Error::tensor(&shard.path, &stored.name, problem));
            }
        }
    }
    Ok(names)
}

/// Checks the type and shape of a stored tensor of which ours is a part.
fn place(
    path: &Path,
    shard: usize,
    stored: &Stored,
    whence: &Whence,
    (rows, cols): (usize, usize),
) -> Result<Place, Error> {
    let Whence { features, transposed, plus, .. } = *whence;
    if !matches!(stored.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
        let problem = format!("is of type {}, expected F32, F16 or BF16; fetch the model unquantized", stored.dtype);
        return Err(Error::tensor(path, &stored.name, problem));
    }
    let expected = match (rows, transposed) {
        (1, _) => vec![features.of],
        (_, false) => vec![features.of, cols],
        (_, true) => vec![cols, features.of],
    };
    if stored.shape != expected {
        let problem = format!(
            "has shape {}, expected {expected:?} by config.json; the folder is damaged",
            shown(&format!("{:?}", stored.shape))
        );
        return Err(Error::tensor(path, &stored.name, problem));
    }
    Ok(Place { shard, dtype: stored.dtype, range: stored.range.clone(), rows, cols, features, transposed, plus })
}

fn info(name: String, place: &Place) -> TensorInfo {
    let n = place.rows as u64 * place.cols as u64;
    TensorInfo {
        name,
        rows: place.rows,
        cols: place.cols,
        encoding: place.dtype.to_string(),
        kept: n,
        bytes: n * place.dtype.bitsize() as u64 / 8,
    }
}
