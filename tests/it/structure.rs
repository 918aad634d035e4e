//! Promises about how the sources hang together: no two files import each other, and nothing stands twice.
//!
//! What a name stands for is found as the compiler does it, as far as this crate writes paths: from `crate`, `self`, `super` or a
//! child module, through `use` and `pub use`, to the file that has the item.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::tidy::{Source, sources};

/// A module's place below `src`: none for `lib.rs`.
type Module = Vec<String>;

/// A file of the library: the names that it brings in, and all its code.
struct File {
    imports: Vec<Import>,
    code: String,
}

/// One name of a `use`, or a path that is written out.
struct Import {
    path: Vec<String>,
    /// The name that it has here, `None` for a path that is written out.
    name: Option<String>,
    is_public: bool,
}

/// The library's modules.
struct Modules(BTreeMap<Module, File>);

impl Modules {
    fn read() -> Self {
        let mut modules = BTreeMap::new();
        for source in sources() {
            let path = source.path.strip_prefix("src/").expect("a source").trim_end_matches(".rs").to_owned();
            if path.starts_with("bin/") {
                continue;
            }
            let mut module: Module = path.split('/').map(str::to_owned).collect();
            if module.last().is_some_and(|last| matches!(last.as_str(), "mod" | "lib")) {
                module.pop();
            }
            modules.insert(module, File::of(&source));
        }
        Self(modules)
    }

    /// The path from the crate's root, `None` where it is another crate's.
    fn absolute(&self, module: &[String], path: &[String]) -> Option<Vec<String>> {
        let child = |first: &String| self.0.contains_key(&[module, std::slice::from_ref(first)].concat());
        let ups = path.iter().take_while(|part| *part == "super").count();
        match path.first()?.as_str() {
            "crate" => Some(path[1..].to_vec()),
            "self" => Some([module, &path[1..]].concat()),
            "super" => Some([&module[..module.len().saturating_sub(ups)], &path[ups..]].concat()),
            _ if child(&path[0]) => Some([module, path].concat()),
            _ => None,
        }
    }

    /// The module that has the item of a path, behind all re-exports.
    fn home(&self, path: &[String], steps: usize) -> Option<Module> {
        let length = (0..=path.len()).rev().find(|&length| self.0.contains_key(&path[..length]))?;
        let module = &path[..length];
        let Some(name) = path.get(length).filter(|_| steps > 0) else { return Some(module.to_vec()) };
        for import in self.0[module].imports.iter().filter(|import| import.name.as_ref() == Some(name)) {
            if let Some(target) = self.absolute(module, &import.path).filter(|target| target != path) {
                return self.home(&target, steps - 1);
            }
        }
        Some(module.to_vec())
    }

    /// Which modules a file needs. To hand on what a child has is no need, unless the file uses it too.
    fn needs(&self, module: &Module) -> BTreeSet<Module> {
        let file = &self.0[module];
        let mut needs = BTreeSet::new();
        for import in &file.imports {
            let Some(path) = self.absolute(module, &import.path) else { continue };
            let Some(home) = self.home(&path, 8) else { continue };
            let is_handed_on = import.is_public
                && home.starts_with(module)
                && !import.name.as_ref().is_some_and(|name| file.uses(name));
            if home != *module && !is_handed_on {
                needs.insert(home);
            }
        }
        needs
    }
}

impl File {
    fn of(source: &Source) -> Self {
        let lines: Vec<&str> = source.code.iter().map(|(_, line)| line.as_str()).collect();
        let (mut imports, mut code) = (Vec::new(), String::new());
        // rustfmt ends a `use` with the line that has its semicolon.
        let mut rest = lines.into_iter();
        while let Some(line) = rest.next() {
            let Some((visibility, tree)) =
                line.trim_start().split_once("use ").filter(|(before, _)| is_visibility(before))
            else {
                code.push_str(line);
                code.push('\n');
                continue;
            };
            let mut tree = tree.to_owned();
            while !tree.contains(';') {
                tree.push_str(rest.next().expect("the end of a use"));
            }
            let tree = tree.split(';').next().unwrap_or_default();
            expand(&[], tree, !visibility.is_empty(), &mut imports);
        }
        for path in code.split(|c: char| !c.is_alphanumeric() && c != ':' && c != '_') {
            if path.starts_with("crate::") || path.starts_with("super::") {
                imports.push(Import { path: parts(path), name: None, is_public: false });
            }
        }
        Self { imports, code }
    }

    fn uses(&self, name: &str) -> bool {
        self.code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name)
    }
}

fn is_visibility(text: &str) -> bool {
    text.is_empty() || text == "pub " || text.starts_with("pub(") && text.ends_with(") ")
}

fn parts(path: &str) -> Vec<String> {
    path.split("::").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// The names of a tree like `a::{b, c::{d, e as f}}`.
fn expand(prefix: &[String], tree: &str, is_public: bool, imports: &mut Vec<Import>) {
    let tree = tree.trim();
    if let Some((head, group)) = tree.split_once('{') {
        let prefix = [prefix, parts(head).as_slice()].concat();
        let group = group.trim_end().trim_end_matches('}');
        let (mut depth, mut start) = (0, 0);
        for (at, c) in group.char_indices().chain([(group.len(), ',')]) {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    if !group[start..at].trim().is_empty() {
                        expand(&prefix, &group[start..at], is_public, imports);
                    }
                    start = at + 1;
                }
                _ => {}
            }
        }
        return;
    }
    let (path, alias) = tree.split_once(" as ").map_or((tree, None), |(path, alias)| (path, Some(alias.trim())));
    let mut path = [prefix, parts(path).as_slice()].concat();
    path.pop_if(|last| last == "self");
    let Some(last) = path.last() else { return };
    let name = Some(alias.unwrap_or(last).to_owned());
    imports.push(Import { path, name, is_public });
}

#[test]
fn no_two_files_import_each_other() {
    let modules = Modules::read();
    let needs: BTreeMap<_, _> = modules.0.keys().map(|module| (module, modules.needs(module))).collect();
    assert!(needs.values().map(BTreeSet::len).sum::<usize>() > 100, "the imports are not read");
    let mut circles = Vec::new();
    for (module, needed) in &needs {
        let back = needed.iter().filter(|other| module < other && needs[other].contains(*module));
        circles.extend(back.map(|other| format!("{} <-> {}", module.join("::"), other.join("::"))));
    }
    assert!(circles.is_empty(), "these files import each other:\n{}", circles.join("\n"));
    // The program is a user of the library, and sees what everybody sees.
    let is_library = |module: &Module| module.first().is_some_and(|first| first != "program");
    let up = needs.iter().filter(|(module, needed)| is_library(module) && needed.contains(&Module::new()));
    let up: Vec<_> = up.map(|(module, _)| module.join("::")).collect();
    assert!(up.is_empty(), "these files import what lib.rs has: {up:?}");
}

/// Lines of code that count when parts of files are compared: no `use`, no signature of a function, and no body of one line that
/// a trait prescribes.
fn comparable(source: &Source) -> Vec<(usize, &str)> {
    let (mut lines, mut in_trait) = (Vec::new(), false);
    let mut rest = source.code.iter().filter(|(_, line)| !line.trim().is_empty()).peekable();
    while let Some((number, line)) = rest.next() {
        in_trait = if line.starts_with("impl") { line.contains(" for ") } else { in_trait && line != "}" };
        let mut line = line.trim();
        let is_use = item(line).starts_with("use ");
        if !is_use && !["fn ", "unsafe fn ", "async fn ", "const fn "].iter().any(|head| item(line).starts_with(head)) {
            lines.push((*number, line));
            continue;
        }
        let ends: &[char] = if is_use { &[';'] } else { &['{', ';', '}'] };
        while !line.ends_with(ends)
            && let Some((_, next)) = rest.next()
        {
            line = next.trim();
        }
        let mut ahead = rest.clone();
        if in_trait && line.ends_with('{') && ahead.nth(1).is_some_and(|(_, line)| line == "    }") {
            rest = ahead;
        }
    }
    lines
}

/// A line without its visibility.
fn item(line: &str) -> &str {
    match line.strip_prefix("pub") {
        Some(rest) => rest.split_once(' ').map_or(rest, |(_, item)| item),
        None => line,
    }
}

#[test]
fn nothing_stands_twice() {
    const LINES: usize = 6;
    let sources = sources();
    let mut seen: BTreeMap<Vec<&str>, String> = BTreeMap::new();
    let mut twice = Vec::new();
    for source in &sources {
        for window in comparable(source).windows(LINES) {
            let text: Vec<&str> = window.iter().map(|(_, line)| *line).collect();
            let here = format!("{}:{}", source.path, window[0].0);
            if let Some(there) = seen.insert(text, here.clone()) {
                twice.push(format!("{here} has what {there} has"));
            }
        }
    }
    assert!(seen.len() > 5000, "the sources are not read");
    assert!(twice.is_empty(), "six like lines:\n{}", twice.join("\n"));
}

#[test]
fn paths_are_followed_to_the_file_that_has_the_item() {
    let modules = Modules::read();
    let home = |path: &str| {
        let path: Vec<String> = path.split("::").map(str::to_owned).collect();
        modules.home(&path, 8).map(|module| module.join("::"))
    };
    assert_eq!(home("engine::Session").as_deref(), Some("engine::session"));
    assert_eq!(home("kernels::Path").as_deref(), Some("kernels::path"));
    assert!(Path::new("src/engine/session.rs").exists());
    let mut imports = Vec::new();
    expand(&[], "super::{a, b::{C as D, self}, E}", false, &mut imports);
    let shown: Vec<_> = imports.iter().map(|import| format!("{} {:?}", import.path.join("::"), import.name)).collect();
    assert_eq!(
        shown,
        ["super::a Some(\"a\")", "super::b::C Some(\"D\")", "super::b Some(\"b\")", "super::E Some(\"E\")"]
    );
}
