//! Which files are compiled at all: the targets of every package, and what their `mod` and `include!` lead to.

use crate::source::{Source, closing_brace, words};
use std::collections::{BTreeMap, BTreeSet};

/// The paths of all files that something compiles. `manifests` are pairs of a package's folder (empty, or with `/` at
/// its end) and the text of its Cargo.toml.
pub(crate) fn live(files: &[Source], manifests: &[(String, String)]) -> BTreeSet<String> {
    let by_path: BTreeMap<&str, &Source> = files.iter().map(|file| (file.path.as_str(), file)).collect();
    let mut live = BTreeSet::new();
    // Each file with the folder its modules live in.
    let mut found: Vec<(String, String)> = Vec::new();
    for file in files.iter().filter(|file| is_target(&file.path, manifests)) {
        found.push((file.path.clone(), folder(&file.path).to_owned()));
    }
    while let Some((path, modules)) = found.pop() {
        let Some(file) = by_path.get(path.as_str()) else { continue };
        if live.insert(path) {
            found.extend(children(file, &modules));
        }
    }
    live
}

/// Whether cargo compiles the file as the root of a library, binary, test, bench, example or build script.
fn is_target(path: &str, manifests: &[(String, String)]) -> bool {
    let owners = manifests.iter().filter(|(package, _)| path.starts_with(package.as_str()));
    let Some((package, manifest)) = owners.max_by_key(|(package, _)| package.len()) else { return false };
    let inside = &path[package.len()..];
    if ["src/lib.rs", "src/main.rs", "build.rs"].contains(&inside) || manifest.contains(&format!("path = \"{inside}\""))
    {
        return true;
    }
    let kinds =
        [("src/bin/", "autobins"), ("tests/", "autotests"), ("benches/", "autobenches"), ("examples/", "autoexamples")];
    kinds.into_iter().any(|(start, automatic)| {
        let Some(name) = inside.strip_prefix(start).and_then(|rest| rest.strip_suffix(".rs")) else { return false };
        let name = name.strip_suffix("/main").unwrap_or(name);
        let listed = manifest.contains(&format!("name = \"{name}\""));
        !name.contains('/') && (listed || !manifest.contains(&format!("{automatic} = false")))
    })
}

/// Files that `file` declares, with the folders of their own modules. Not all of them need exist: a module is
/// `name.rs` or `name/mod.rs`.
fn children(file: &Source, modules: &str) -> Vec<(String, String)> {
    let mut children = Vec::new();
    // The inline modules we are in: name, and where its closing brace stands.
    let mut inline: Vec<(&str, usize)> = Vec::new();
    for (offset, word) in file.words() {
        while inline.pop_if(|(_, end)| *end < offset).is_some() {}
        let rest = &file.code[offset + word.len()..];
        if word == "include"
            && rest.starts_with('!')
            && let Some(target) = file.text[offset..].split('"').nth(1)
        {
            let path = join(folder(&file.path), target);
            children.push((path.clone(), folder(&path).to_owned()));
        }
        let Some((at, name)) = words(rest).next().filter(|_| word == "mod") else { continue };
        let after = offset + word.len() + at + name.len();
        match file.code[after..].trim_start().bytes().next() {
            Some(b'{') => {
                let open = after + file.code[after..].find('{').expect("it was just seen");
                inline.push((name, closing_brace(&file.code, open).unwrap_or(file.code.len())));
            }
            Some(b';') => {
                let names: Vec<&str> = inline.iter().map(|(name, _)| *name).collect();
                let here = join(modules, &names.join("/"));
                if let Some(target) = path_attribute(file, offset) {
                    let path = join(folder(&file.path), target);
                    children.push((path.clone(), folder(&path).to_owned()));
                } else {
                    children.push((join(&here, &format!("{name}.rs")), join(&here, name)));
                    children.push((join(&here, &format!("{name}/mod.rs")), join(&here, name)));
                }
            }
            _ => {}
        }
    }
    children
}

/// The value of the `#[path]` attribute of the item whose keyword stands at `offset`.
fn path_attribute(file: &Source, offset: usize) -> Option<&str> {
    let item = file.code[..offset].rfind([';', '{', '}']).map_or(0, |end| end + 1);
    file.text[item..offset].split("#[path = \"").nth(1)?.split('"').next()
}

fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// `folder/path`, with `..` resolved.
fn join(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(path.split('/')).filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_are_followed_and_dead_files_found() {
        let file = |path: &str, text: &str| Source::new(path.to_owned(), text.to_owned());
        let files = [
            file(
                "src/lib.rs",
                "mod a;\nmod made { pub mod b; }\nmod c;\n// mod dead;\n#[path = \"odd/place.rs\"] mod d;",
            ),
            file("src/a.rs", "mod inner;"),
            file("src/a/inner.rs", ""),
            file("src/made/b.rs", ""),
            file("src/c/mod.rs", "mod inner; include!(\"text.rs\");"),
            file("src/c/inner.rs", ""),
            file("src/c/text.rs", ""),
            file("src/odd/place.rs", ""),
            file("src/dead.rs", "mod deader;"),
            file("src/dead/deader.rs", ""),
            file("benches/listed.rs", ""),
            file("benches/dead.rs", ""),
            file("tools/t/src/main.rs", ""),
            file("tools/t/tests/t.rs", ""),
        ];
        let manifests = [
            (String::new(), "autobenches = false\n[[bench]]\nname = \"listed\"".to_owned()),
            ("tools/t/".to_owned(), String::new()),
        ];
        let live = live(&files, &manifests);
        let dead: Vec<&str> = files.iter().map(|f| f.path.as_str()).filter(|path| !live.contains(*path)).collect();
        assert_eq!(dead, ["src/dead.rs", "src/dead/deader.rs", "benches/dead.rs"]);
    }
}
