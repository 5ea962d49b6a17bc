//! `new`: a small project that builds to a service. All of it is in this binary, and its header for C is the one that the guests in
//! `tests/guests` are built with. Nothing is overwritten.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    Context, Failure,
    args::{Language, New},
};

/// Characters of a project's name at most: it names files, an npm package and a service.
const NAME_CHARS_MAX: usize = 40;
/// What stands for the name in files and their names.
const NAME: &str = "{name}";

/// A file of a project: its path, its text, and whether it can be executed.
type Template = (&'static str, &'static str, bool);

const C: [Template; 4] = [
    ("{name}.c", include_str!("templates/c/service.c"), false),
    ("wayfare.h", include_str!("templates/c/wayfare.h"), false),
    ("build.sh", include_str!("templates/c/build.sh"), true),
    ("README.md", include_str!("templates/c/README.md"), false),
];
const ASSEMBLY_SCRIPT: [Template; 5] = [
    ("assembly/index.ts", include_str!("templates/assemblyscript/index.ts"), false),
    ("assembly/wayfare.ts", include_str!("templates/assemblyscript/wayfare.ts"), false),
    ("asconfig.json", include_str!("templates/assemblyscript/asconfig.json"), false),
    ("package.json", include_str!("templates/assemblyscript/package.json"), false),
    ("README.md", include_str!("templates/assemblyscript/README.md"), false),
];

impl Language {
    const fn templates(self) -> &'static [Template] {
        match self {
            Self::C => &C,
            Self::Assemblyscript => &ASSEMBLY_SCRIPT,
        }
    }

    const fn build(self) -> &'static str {
        match self {
            Self::C => "./build.sh",
            Self::Assemblyscript => "npm install && npm run build",
        }
    }
}

/// `{name, path, files, next}`: what was made, and the commands that build and deploy it.
#[derive(Debug, Serialize)]
struct Project {
    name: String,
    path: PathBuf,
    files: Vec<String>,
    next: Vec<String>,
}

pub(super) fn new(context: &Context, args: New) -> Result<(), Failure> {
    check(&args.name)?;
    let path = args.path.unwrap_or_else(|| PathBuf::from(&args.name));
    let mut files = Vec::new();
    require_empty(&path)?;
    for (file, text, executable) in args.lang.templates() {
        let file = file.replace(NAME, &args.name);
        write(&path.join(&file), &text.replace(NAME, &args.name), *executable)?;
        files.push(file);
    }
    let name = &args.name;
    let next = vec![
        format!("cd {} && {}", path.display(), args.lang.build()),
        format!("wayfare deploy {name}.wasm --name {name} --dir HOME"),
    ];
    let project = Project { name: args.name, path, files, next };
    context.print(&project, |Project { name, path, files, next }| {
        let (path, files) = (path.display(), files.join(", "));
        format!(
            "Made `{name}` in {path}: {files}\n\nBuild it, and deploy it on a home or cloud node:\n  {}\n",
            next.join("\n  ")
        )
    })
}

fn check(name: &str) -> Result<(), Failure> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let good = name.len() <= NAME_CHARS_MAX
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.chars().all(allowed);
    let why = || {
        Failure::setup(format!(
            "`{name}` cannot name a project: take up to {NAME_CHARS_MAX} lowercase letters, digits and hyphens, a letter first, such as guest-book"
        ))
    };
    if good { Ok(()) } else { Err(why()) }
}

fn require_empty(path: &Path) -> Result<(), Failure> {
    match fs::read_dir(path).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => {
            let text = format!("{} is not empty, and nothing is overwritten: choose another --path", path.display());
            Err(Failure::setup(text))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::setup(format!("--path: cannot use {}: {error}", path.display()))),
    }
}

fn write(path: &Path, text: &str, executable: bool) -> Result<(), Failure> {
    let mode = if executable { 0o777 } else { 0o666 };
    let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())
    });
    written.map_err(|error| Failure::setup(format!("cannot write {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::state::StateDir;

    fn make(name: &str, lang: Language, path: &Path) -> Result<(), Failure> {
        let context = Context { dir: StateDir::new("unused"), json: true };
        new(&context, New { name: name.to_owned(), lang, path: Some(path.to_owned()) })
    }

    #[test]
    fn a_project_has_its_name_everywhere_and_is_complete() {
        for (lang, source) in [(Language::C, "guest-book.c"), (Language::Assemblyscript, "assembly/index.ts")] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a/b");
            make("guest-book", lang, &path).unwrap();
            assert!(fs::read_to_string(path.join(source)).unwrap().contains("guest-book: a guest book"));
            for (file, ..) in lang.templates() {
                let text = fs::read_to_string(path.join(file.replace(NAME, "guest-book"))).unwrap();
                assert!(!text.contains(NAME), "{file}");
            }
            if lang == Language::C {
                assert_eq!(fs::metadata(path.join("build.sh")).unwrap().permissions().mode() & 0o100, 0o100);
            }
        }
    }

    #[test]
    fn nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("mine"), "text").unwrap();
        let failure = make("book", Language::C, dir.path()).unwrap_err();
        assert!(failure.parts().0.contains("is not empty") && failure.parts().1 == 2);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let failure = make("book", Language::C, &dir.path().join("mine")).unwrap_err();
        assert!(failure.parts().0.contains("mine") && failure.parts().1 == 2, "a file is no folder");
        // An empty folder is as good as none, and a second project finds it full.
        let empty = dir.path().join("empty");
        fs::create_dir(&empty).unwrap();
        make("book", Language::Assemblyscript, &empty).unwrap();
        assert_eq!(make("book", Language::C, &empty).unwrap_err().parts().1, 2);
    }

    #[test]
    fn a_bad_name_says_what_a_good_one_is() {
        let dir = tempfile::tempdir().unwrap();
        let long = "a".repeat(41);
        for name in ["", "Book", "my book", "1book", "-book", "book-", "a/b", "../b", "bücher", &long] {
            let failure = make(name, Language::C, &dir.path().join("x")).unwrap_err();
            assert!(failure.parts().0.contains("such as guest-book") && failure.parts().1 == 2, "{name}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        for name in ["b", "guest-book", "a1", &long[1..]] {
            make(name, Language::C, &dir.path().join(name)).unwrap();
        }
    }
}
