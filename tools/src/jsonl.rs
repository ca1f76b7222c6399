//! Files of one JSON object a line, packed by gzip or not.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use serde::de::DeserializeOwned;

use crate::failure::Failure;

/// All benchmarks together are smaller; a file that grows beyond it when unpacked is none.
const MAX_BYTES: u64 = 256 << 20;

/// One line's object and its number, from 1.
pub struct Line<T> {
    /// For messages.
    pub number: usize,
    /// What it says.
    pub value: T,
}

/// Reads every line of `path` that is not blank; errors name the file, the line and what is wrong.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<Line<T>>, Failure> {
    let text = read_text(path, MAX_BYTES)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parse = |(i, line): (usize, &str)| match parse(line) {
        Ok(value) => Ok(Line { number: i + 1, value }),
        Err(problem) => Err(bad(path, i + 1, &problem)),
    };
    lines.map(parse).collect()
}

fn parse<T: DeserializeOwned>(line: &str) -> Result<T, String> {
    let mut json = serde_json::Deserializer::from_str(line);
    let found = serde_path_to_error::deserialize(&mut json).map_err(|e| {
        let (field, problem) = (e.path().to_string(), e.inner().to_string());
        // Where it is in the line; what the line is, is known.
        let problem = problem.rsplit_once(" at line ").map_or(&problem[..], |(problem, _)| problem);
        match e.inner().is_data() && field != "." {
            true => format!("`{field}`: {}", problem.replace("usize", "a whole number")),
            false => format!("{problem}; a line must be one JSON object"),
        }
    })?;
    json.end().map_err(|_| "more than one JSON object; give each a line of its own".to_owned())?;
    Ok(found)
}

/// An error in line `number` of `path`.
pub fn bad(path: &Path, number: usize, problem: &str) -> Failure {
    Failure::Usage(format!("{}: line {number}: {problem}", path.display()))
}

/// The text of a file, unpacked if it begins as gzip does, of at most so many bytes.
fn read_text(path: &Path, most: u64) -> Result<String, Failure> {
    let failed = |e: std::io::Error| Failure::Runtime(format!("{}: cannot read: {e}", path.display()));
    let mut file = BufReader::new(File::open(path).map_err(failed)?);
    let packed = file.fill_buf().map_err(failed)?.starts_with(&[0x1f, 0x8b]);
    let mut bytes = Vec::new();
    match packed {
        true => MultiGzDecoder::new(file).take(most + 1).read_to_end(&mut bytes),
        false => file.take(most + 1).read_to_end(&mut bytes),
    }
    .map_err(failed)?;
    if bytes.len() as u64 > most {
        let message = format!("{}: more than {most} bytes, benchmarks are smaller; split it", path.display());
        return Err(Failure::Usage(message));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Failure::Usage(format!("{}: byte {at}: not UTF-8 text; is it a file of JSON lines?", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use serde_json::Value;
    use std::io::Write;

    fn read_bytes(bytes: &[u8]) -> Result<Vec<(usize, Value)>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        match read(file.path()) {
            Ok(lines) => Ok(lines.into_iter().map(|l| (l.number, l.value)).collect()),
            Err(Failure::Usage(message) | Failure::Runtime(message)) => Err(message),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn lines_are_read_packed_or_not() {
        let text = b"{\"a\":1}\n\n {\"a\":2}\r\n";
        let expected = vec![(1, serde_json::json!({"a": 1})), (3, serde_json::json!({"a": 2}))];
        assert_eq!(read_bytes(text).unwrap(), expected);
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(text).unwrap();
        assert_eq!(read_bytes(&packed.finish().unwrap()).unwrap(), expected);
    }

    #[test]
    fn errors_name_the_line() {
        assert!(
            read_bytes(b"{}\n{\"a\":")
                .unwrap_err()
                .ends_with("line 2: EOF while parsing a value; a line must be one JSON object")
        );
        assert!(
            read_bytes(b"{}{}")
                .unwrap_err()
                .ends_with("line 1: more than one JSON object; give each a line of its own")
        );
        let field = parse::<std::collections::BTreeMap<String, usize>>("{\"a\": \"0\"}").unwrap_err();
        assert_eq!(field, "`a`: invalid type: string \"0\", expected a whole number");
        assert!(read_bytes(b"{}\n\xff\xfe").unwrap_err().contains("byte 3: not UTF-8"));
        assert!(read_bytes(&[0x1f, 0x8b, 8, 0]).unwrap_err().contains("cannot read"));
    }

    #[test]
    fn a_small_file_that_unpacks_to_a_huge_one_is_refused() {
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(&vec![b' '; 1 << 20]).unwrap();
        let packed = packed.finish().unwrap();
        assert!(packed.len() < 10_000);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), packed).unwrap();
        assert_eq!(read_text(file.path(), 1 << 20).unwrap().len(), 1 << 20);
        let Err(Failure::Usage(message)) = read_text(file.path(), (1 << 20) - 1) else { panic!() };
        assert!(message.contains("more than 1048575 bytes"), "{message}");
    }
}
