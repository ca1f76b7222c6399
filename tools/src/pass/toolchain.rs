//! The compilers and interpreters of this machine.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::items::Item;
use super::language::Language;

/// What runs one language's programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    /// The programs, as absolute paths: what builds, then what runs if that is another.
    programs: Vec<String>,
    /// Its own word for what it is, `Python 3.12.1`.
    pub version: String,
    /// Folders that it needs.
    pub folders: Vec<PathBuf>,
}

impl Toolchain {
    /// Looks for that of `language` in the folders of `path`, the PATH of the environment; an error says what is missing.
    pub fn find(language: Language, path: &OsStr) -> Result<Self, String> {
        let tool = |name: &str| find(name, path).ok_or_else(|| format!("`{name}` is not in PATH"));
        // Shims in PATH (pyenv, nvm, sdkman) are scripts that need more than the tool itself: they are asked what they run.
        match language {
            Language::Python => {
                let asked = "import sys, sysconfig; print(sys.executable, sys.version.split()[0], sys.base_prefix, \
                             sysconfig.get_path('stdlib'), sysconfig.get_path('platstdlib'), sep='\\n')";
                let said = ask(&tool("python3")?, &["-I", "-c", asked])?;
                let [program, version, own @ ..] = lines::<5>(&said).ok_or(format!("`python3` said {said:?}"))?;
                Ok(Self::new(vec![program], format!("Python {version}"), &own.map(PathBuf::from)))
            }
            Language::Java => {
                let (javac, java) = (tool("javac")?, tool("java")?);
                let said = ask(&java, &["-XshowSettings:properties", "-version"])?;
                let home = said.lines().find_map(|l| l.trim().strip_prefix("java.home = ")).map(PathBuf::from);
                let version = ask(&javac, &["-version"])?.trim().to_owned();
                let own = |name: &str, other: PathBuf| match home.as_ref().map(|home| home.join("bin").join(name)) {
                    Some(program) if program.is_file() => program,
                    _ => other,
                };
                let programs = [own("javac", javac), own("java", java)];
                let programs = programs.map(|p| p.to_string_lossy().into_owned()).into();
                Ok(Self::new(programs, version, home.as_slice()))
            }
            Language::Cpp => {
                let program = tool("g++")?;
                let said = ask(&program, &["--version"])?;
                let version = said.lines().next().unwrap_or_default().to_owned();
                Ok(Self::new(vec![program.to_string_lossy().into_owned()], version, &[]))
            }
            Language::Javascript => {
                let said = ask(&tool("node")?, &["-p", "process.execPath + '\\n' + process.version"])?;
                let [program, version] = lines(&said).ok_or(format!("`node` said {said:?}"))?;
                Ok(Self::new(vec![program], format!("node {version}"), &[]))
            }
        }
    }

    /// With the folders that it says are its `own`, but for those that people live in.
    fn new(programs: Vec<String>, version: String, own: &[PathBuf]) -> Self {
        let homes = Homes::of_this_machine();
        let folders = programs.iter().flat_map(|p| folders_of(Path::new(p), &homes));
        let own = own.iter().filter(|folder| !homes.are_in(folder)).cloned();
        let folders: HashSet<PathBuf> = folders.chain(own).collect();
        let mut folders: Vec<PathBuf> = folders.into_iter().collect();
        // Those that hold others first.
        folders.sort();
        Toolchain { programs, version, folders }
    }

    /// The program that builds (0) or the one that runs (1).
    pub fn program(&self, index: usize) -> &str {
        self.programs.get(index).map_or("", String::as_str)
    }

    /// One of no use, for looking at programs without running them.
    #[cfg(test)]
    pub(crate) fn named(programs: &[&str]) -> Self {
        let programs = programs.iter().map(|p| (*p).to_owned()).collect();
        Toolchain { programs, version: String::new(), folders: Vec::new() }
    }
}

/// The toolchains of all languages that come up.
pub struct Tools(pub Vec<(Language, Result<Toolchain, String>)>);

impl Tools {
    /// Those that `items` need, on this machine's `PATH`.
    pub fn find(items: &[Item]) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut all: Vec<(Language, Result<Toolchain, String>)> = Vec::new();
        for item in items {
            if !all.iter().any(|(language, _)| *language == item.language) {
                all.push((item.language, Toolchain::find(item.language, &path)));
            }
        }
        Tools(all)
    }

    /// What they need to be read by programs.
    pub fn folders(&self) -> Vec<PathBuf> {
        let mut folders: Vec<PathBuf> =
            self.0.iter().flat_map(|(_, t)| t.iter().flat_map(|t| t.folders.clone())).collect();
        folders.sort();
        folders
    }

    /// That of a language, or why there is none.
    pub fn of(&self, language: Language) -> Result<&Toolchain, &str> {
        let found = self.0.iter().find(|(l, _)| *l == language);
        found.map_or(Err("not looked for"), |(_, tools)| tools.as_ref().map_err(String::as_str))
    }
}

fn find(name: &str, path: &OsStr) -> Option<PathBuf> {
    let is_program = |file: &PathBuf| std::fs::metadata(file).is_ok_and(|m| m.is_file() && may_run(&m));
    std::env::split_paths(path).filter(|folder| folder.is_absolute()).map(|folder| folder.join(name)).find(is_program)
}

#[cfg(unix)]
fn may_run(file: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.permissions().mode() & 0o111 != 0
}

#[cfg(not(unix))]
fn may_run(_file: &std::fs::Metadata) -> bool {
    true
}

/// What a tool says, on either output.
fn ask(program: &Path, arguments: &[&str]) -> Result<String, String> {
    let said = Command::new(program).args(arguments).stdin(std::process::Stdio::null()).output();
    let said = said.map_err(|e| format!("`{}` cannot start: {e}", program.display()))?;
    let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    match said.status.success() {
        true => Ok(text),
        false => Err(format!("`{}` does not run: {}", program.display(), text.trim())),
    }
}

fn lines<const N: usize>(text: &str) -> Option<[String; N]> {
    let lines: Vec<String> = text.lines().take(N).map(|l| l.trim().to_owned()).collect();
    lines.try_into().ok()
}

/// The folder that a program was installed in, by its name and by the file that this leads to.
fn folders_of(program: &Path, homes: &Homes) -> [PathBuf; 2] {
    let named = program.to_path_buf();
    let real = program.canonicalize().unwrap_or_else(|_| named.clone());
    [named, real].map(|p| install_folder(&p, homes))
}

/// That above `bin`, but nothing that people live in: of `~/bin/tool` only `~/bin`, of `~/tool` only the program.
fn install_folder(program: &Path, homes: &Homes) -> PathBuf {
    let folder = program.parent();
    let above = folder.filter(|folder| folder.ends_with("bin")).and_then(Path::parent);
    let shown = [above, folder].into_iter().flatten().find(|folder| !homes.are_in(folder));
    shown.unwrap_or(program).to_owned()
}

/// Folders that are not shown.
struct Homes(Vec<PathBuf>);

impl Homes {
    fn of_this_machine() -> Self {
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        Self::known(users.lines().filter_map(home_of_person).chain(std::env::var_os("HOME").map(PathBuf::from)))
    }

    /// These and root's, with what they are by other names.
    fn known(homes: impl Iterator<Item = PathBuf>) -> Self {
        let named = homes.chain([PathBuf::from("/root")]).filter(|home| home.parent().is_some());
        Homes(named.flat_map(|home| [home.canonicalize().ok(), Some(home)]).flatten().collect())
    }

    /// Whether `folder` is one, or holds one, or is where a home's programs lie beside its keys, by this or another name.
    fn are_in(&self, folder: &Path) -> bool {
        self.are_named(folder) || folder.canonicalize().is_ok_and(|real| self.are_named(&real))
    }

    fn are_named(&self, folder: &Path) -> bool {
        let parents = ["/home", "/var/home"].map(Path::new);
        let is_home = folder.parent().is_some_and(|above| parents.contains(&above));
        let inside = folder.parent().filter(|_| folder.ends_with(".local"));
        is_home
            || parents.iter().any(|parent| parent.starts_with(folder))
            || self.0.iter().any(|home| home.starts_with(folder) || inside == Some(home))
            || inside.and_then(Path::parent).is_some_and(|above| parents.contains(&above))
    }
}

/// Of a line of `passwd` that is a person's: services live in the system's own folders.
fn home_of_person(line: &str) -> Option<PathBuf> {
    let fields: Vec<&str> = line.split(':').collect();
    let user: u32 = fields.get(2)?.parse().ok()?;
    let home = Path::new(fields.get(5)?);
    (user >= 1000 && user != 65534 && home.is_absolute()).then(|| home.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_found_where_they_are_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().as_os_str();
        assert_eq!(Toolchain::find(Language::Javascript, path), Err("`node` is not in PATH".into()));
        let node = folder.path().join("node");
        std::fs::write(&node, "#!/bin/sh\necho /opt/n/v1/bin/node; echo v1.2.3\n").unwrap();
        assert_eq!(Toolchain::find(Language::Javascript, path), Err("`node` is not in PATH".into()), "no program");
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&node, std::fs::Permissions::from_mode(0o755)).unwrap();
        let found = Toolchain::find(Language::Javascript, path).unwrap();
        assert_eq!((found.program(0), found.version.as_str()), ("/opt/n/v1/bin/node", "node v1.2.3"));
        assert_eq!(found.folders, [PathBuf::from("/opt/n/v1")]);
        std::fs::write(&node, "#!/bin/sh\necho broken; exit 1\n").unwrap();
        assert!(Toolchain::find(Language::Javascript, path).unwrap_err().contains("does not run: broken"));
    }

    #[test]
    fn homes_are_not_shown() {
        let people =
            "me:x:1000:1000::/data/me:/bin/sh\ndaemon:x:1:1::/usr/sbin:/bin/sh\nnobody:x:65534:1::/nonexistent:";
        let homes = Homes::known(people.lines().filter_map(home_of_person));
        let folder = |path: &str| install_folder(Path::new(path), &homes);
        assert_eq!(folder("/home/me/bin/node"), Path::new("/home/me/bin"));
        assert_eq!(folder("/root/bin/node"), Path::new("/root/bin"));
        assert_eq!(folder("/home/me/.nvm/v20/bin/node"), Path::new("/home/me/.nvm/v20"));
        assert_eq!(folder("/opt/node/bin/node"), Path::new("/opt/node"));
        assert_eq!(folder("/bin/node"), Path::new("/bin"));
        assert_eq!(folder("/opt/node"), Path::new("/opt"));
        assert_eq!(folder("/usr/sbin/node"), Path::new("/usr/sbin"));
        assert_eq!(folder("/home/me/node"), Path::new("/home/me/node"));
        assert_eq!(folder("/var/home/me/bin/node"), Path::new("/var/home/me/bin"));
        assert_eq!(folder("/data/me/bin/node"), Path::new("/data/me/bin"));
        assert_eq!(folder("/data/me/.local/bin/node"), Path::new("/data/me/.local/bin"));
        assert_eq!(folder("/home/you/.local/bin/node"), Path::new("/home/you/.local/bin"));
        assert_eq!(folder("/data/bin/node"), Path::new("/data/bin"));
        assert_eq!(folder("/bin/node"), Path::new("/bin"));
    }
}
