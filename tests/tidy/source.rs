//! Rust text taken apart just far enough: what is code, comment or literal, and where functions begin and end.
//!
//! A lexer that knows comments, strings and character literals, then words and matching braces in what is left. It
//! expands no macros and resolves no names; the compiler and the linter do that.

/// One Rust file. `code` and `comments` are `text` with everything else blanked out, so offsets and lines agree.
pub(crate) struct Source {
    /// From the root of the repository, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) code: String,
    pub(crate) comments: String,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function<'a> {
    pub(crate) name: &'a str,
    /// Where its `fn` stands.
    pub(crate) offset: usize,
    /// From the line of `fn` to the line of the closing brace.
    pub(crate) lines: usize,
}

impl Source {
    pub(crate) fn new(path: String, text: String) -> Source {
        let classes = classify(text.as_bytes());
        let code = keep(&text, &classes, Class::Code);
        let comments = keep(&text, &classes, Class::Comment);
        Source { path, text, code, comments }
    }

    /// `path:line` of an offset.
    pub(crate) fn at(&self, offset: usize) -> String {
        let line = self.text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("{}:{line}", self.path)
    }

    /// Identifiers, keywords and numbers of the code, with their offsets.
    pub(crate) fn words(&self) -> impl Iterator<Item = (usize, &str)> {
        words(&self.code)
    }

    /// All functions with a body, those inside others too.
    pub(crate) fn functions(&self) -> Vec<Function<'_>> {
        let function = |(offset, _)| {
            let name = words(self.code[offset + 2..].trim_start()).next().filter(|(at, _)| *at == 0)?.1;
            let end = closing_brace(&self.code, body(&self.code, offset)?)?;
            let lines = self.code[offset..end].matches('\n').count() + 1;
            Some(Function { name, offset, lines })
        };
        self.words().filter(|(_, word)| *word == "fn").filter_map(function).collect()
    }

    /// The modules of the standard library that are named, alone (`std::fs`) or in a group (`std::{fs, io}`).
    pub(crate) fn std_modules(&self) -> Vec<(usize, &str)> {
        let mut modules = Vec::new();
        for (offset, root) in self.words().filter(|(_, word)| ["std", "core"].contains(word)) {
            let Some(rest) = self.code[offset + root.len()..].trim_start().strip_prefix("::") else { continue };
            let rest = rest.trim_start();
            let group =
                if rest.starts_with('{') { &rest[1..closing_brace(rest, 0).unwrap_or(rest.len())] } else { rest };
            let mut depth = 0;
            for item in group.split_inclusive([',', '{', '}']) {
                if depth == 0 {
                    modules.extend(words(item).next().map(|(_, module)| (offset, module)));
                }
                depth += i32::from(item.ends_with('{')) - i32::from(item.ends_with('}'));
                if !rest.starts_with('{') {
                    break;
                }
            }
        }
        modules
    }
}

/// Identifiers, keywords and numbers of a text, with their offsets.
pub(crate) fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut end = 0;
    std::iter::from_fn(move || {
        let start = end + text[end..].find(is_word)?;
        end = start + text[start..].find(|c| !is_word(c)).unwrap_or(text.len() - start);
        Some((start, &text[start..end]))
    })
}

/// The brace that closes the one at `open`.
pub(crate) fn closing_brace(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0;
    for (index, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return Some(index),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// The brace that opens the body of the function whose `fn` stands at `offset`; none if it ends with a semicolon.
fn body(code: &str, offset: usize) -> Option<usize> {
    let mut depth = 0;
    for (index, byte) in code.bytes().enumerate().skip(offset) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'{' if depth == 0 => return Some(index),
            b';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

#[derive(Clone, Copy, PartialEq)]
enum Class {
    Code,
    Comment,
    Literal,
}

/// The class of every byte.
fn classify(text: &[u8]) -> Vec<Class> {
    let mut classes = Vec::with_capacity(text.len());
    while classes.len() < text.len() {
        let (class, length) = token(&text[classes.len()..]);
        classes.resize((classes.len() + length).min(text.len()), class);
    }
    classes
}

/// `text` with every byte of another class blanked out, line ends aside.
fn keep(text: &str, classes: &[Class], class: Class) -> String {
    let blank = |(byte, of): (u8, &Class)| if *of == class || byte == b'\n' { byte } else { b' ' };
    String::from_utf8(text.bytes().zip(classes).map(blank).collect()).expect("classes change between characters only")
}

/// Class and length of the token `text` begins with.
fn token(text: &[u8]) -> (Class, usize) {
    let word = text.iter().take_while(|byte| is_word(char::from(**byte))).count();
    match (&text[..word], text.get(word)) {
        (b"r" | b"br" | b"cr", Some(b'"' | b'#')) => match raw_string(&text[word..]) {
            Some(length) => (Class::Literal, word + length),
            None => (Class::Code, word),
        },
        (b"" | b"b" | b"c", Some(b'"')) => (Class::Literal, word + quoted(&text[word..])),
        (b"" | b"b", Some(b'\'')) => match character(&text[word..]) {
            Some(length) => (Class::Literal, word + length),
            None => (Class::Code, word + 1),
        },
        (b"", _) if text.starts_with(b"//") => {
            (Class::Comment, text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len()))
        }
        (b"", _) if text.starts_with(b"/*") => (Class::Comment, block_comment(text)),
        _ => (Class::Code, word.max(1)),
    }
}

/// Length of the string or character literal that begins with its quote.
fn quoted(text: &[u8]) -> usize {
    let mut index = 1;
    while index < text.len() && text[index] != text[0] {
        index += if text[index] == b'\\' { 2 } else { 1 };
    }
    index + 1
}

/// Length of the raw string that begins with its hashes; none if it is a raw identifier.
fn raw_string(text: &[u8]) -> Option<usize> {
    let hashes = text.iter().take_while(|byte| **byte == b'#').count();
    let inside = text[hashes..].strip_prefix(b"\"")?;
    let closing = [b"\"".as_slice(), &text[..hashes]].concat();
    let length = inside.windows(closing.len()).position(|end| end == closing).unwrap_or(inside.len());
    Some(hashes + 1 + length + closing.len())
}

/// Length of the character literal that begins with its quote; none if it is a lifetime.
fn character(text: &[u8]) -> Option<usize> {
    if text.get(1) == Some(&b'\\') {
        return Some(quoted(text));
    }
    // One character of one to four bytes: the first, then those that continue it.
    let continued = text.iter().skip(2).take_while(|byte| **byte & 0xc0 == 0x80).count();
    (text.get(2 + continued) == Some(&b'\'')).then_some(3 + continued)
}

/// Length of the block comment, which may hold others.
fn block_comment(text: &[u8]) -> usize {
    let (mut depth, mut index) = (0, 0);
    while index < text.len() {
        match &text[index..] {
            [b'/', b'*', ..] => depth += 1,
            [b'*', b'/', ..] if depth == 1 => return index + 2,
            [b'*', b'/', ..] => depth -= 1,
            _ => {
                index += 1;
                continue;
            }
        }
        index += 2;
    }
    text.len()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new("a.rs".to_owned(), text.to_owned())
    }

    fn code_words(text: &str) -> Vec<String> {
        source(text).words().map(|(_, word)| word.to_owned()).collect()
    }

    #[test]
    fn comments_are_not_code() {
        assert_eq!(code_words("a // b\nc /* d /* e */ f */ g /// h"), ["a", "c", "g"]);
        assert_eq!(code_words("a /* never closed"), ["a"]);
        assert_eq!(words(&source("a // b\nc /* d */").comments).map(|(_, word)| word).collect::<Vec<_>>(), ["b", "d"]);
    }

    #[test]
    fn literals_are_not_code() {
        assert_eq!(code_words(r#"a "b \" c" d b"e" c"f" g"#), ["a", "d", "g"]);
        assert_eq!(code_words(r###"a r"b\" c br#"d " e"# f r##"g "# h"## i"###), ["a", "c", "f", "i"]);
        assert_eq!(code_words(r"a 'b' c '\'' d '\u{65}' e b'f' g 'ß' h"), ["a", "c", "d", "e", "g", "h"]);
        assert_eq!(code_words("\"// a\" b"), ["b"]);
        assert_eq!(code_words("\"never closed \\"), [""; 0]);
    }

    #[test]
    fn lifetimes_and_raw_identifiers_are_code() {
        assert_eq!(
            code_words("fn f<'a>(x: &'a str) -> &'static str"),
            ["fn", "f", "a", "x", "a", "str", "static", "str"]
        );
        assert_eq!(code_words("r#type r"), ["r", "type", "r"]);
    }

    #[test]
    fn functions_are_measured_by_their_braces() {
        let file = source(
            "trait T {\n    fn declared(&self, bytes: [u8; 4]);\n}\nfn one() { \"}\"; '{'; /* } */ }\n\
             fn outer(\n    f: fn(u8) -> u8,\n) -> [u8; 2] {\n    fn inner() {\n    }\n}\n",
        );
        let found: Vec<(&str, usize)> = file.functions().iter().map(|f| (f.name, f.lines)).collect();
        assert_eq!(found, [("one", 1), ("outer", 6), ("inner", 2)]);
        assert_eq!(file.at(file.functions()[1].offset), "a.rs:5");
    }

    #[test]
    fn modules_are_seen_alone_and_in_groups() {
        let file = source("use std::fs; use std::{io::{self, fs2}, time::Instant, net}; core::fmt::Debug; my::std");
        let found: Vec<&str> = file.std_modules().into_iter().map(|(_, module)| module).collect();
        assert_eq!(found, ["fs", "io", "time", "net", "fmt"]);
    }
}
