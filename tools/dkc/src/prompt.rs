//! The prompt: what `dkc` alone on a terminal is. Lines are edited, remembered from one run to the next, and their commands completed.

use crate::args::{Format, Line, UsageError};
use crate::{code_of, run as run_command, warn};
use clap::{CommandFactory, Parser};
use dkc::client::blocking::Client;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{Config, Context, Editor, Helper};
use std::path::PathBuf;

/// Lines that are remembered.
const HISTORY_LINES_MAX: usize = 1_000;

/// Asks for commands until there are no more.
pub(crate) fn run(client: &mut Client, format: Format) -> anyhow::Result<u8> {
    let config = Config::builder().max_history_size(HISTORY_LINES_MAX)?.history_ignore_space(true).build();
    let mut editor: Editor<Commands, FileHistory> = Editor::with_config(config)?;
    editor.set_helper(Some(Commands::new()));
    let history = history_file();
    if let Some(path) = &history {
        // There is none the first time.
        let _ = editor.load_history(path);
    }
    loop {
        match editor.readline("dkc> ") {
            Ok(line) => {
                let _ = editor.add_history_entry(line.as_str());
                if !obey(client, format, &line) {
                    break;
                }
            }
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(path) = history
        && let Err(error) = path.parent().map_or(Ok(()), std::fs::create_dir_all).map(|()| editor.save_history(&path))
    {
        warn(&format!("the lines typed are not remembered: {}: {error}", path.display()));
    }
    Ok(0)
}

/// Does what a line says; returns whether to ask for another.
fn obey(client: &mut Client, format: Format, line: &str) -> bool {
    let words = match split(line) {
        Ok(words) => words,
        Err(error) => {
            warn(&error.to_string());
            return true;
        }
    };
    match words.first().map(String::as_str) {
        None => return true,
        Some("exit" | "quit") => return false,
        Some(_) => {}
    }
    match Line::try_parse_from(&words) {
        Ok(line) => {
            code_of(run_command(client, format, &line.command));
        }
        // Help, too, comes as an error, and goes where it belongs. If that is closed, there is nobody to tell.
        Err(error) => drop(error.print()),
    }
    true
}

/// Where lines are remembered: in the user's folder for such things, if it is known.
fn history_file() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")))?;
    Some(state.join("dkc/history"))
}

/// The words of a line: separated by spaces, but for those in quotes or behind a backslash.
fn split(line: &str) -> Result<Vec<String>, UsageError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match (character, quote) {
            (mark, Some(open)) if mark == open => quote = None,
            ('\\', None | Some('"')) => match characters.next() {
                Some(next) => word.get_or_insert_default().push(next),
                None => return Err(UsageError("nothing follows the backslash".to_owned())),
            },
            ('"' | '\'', None) => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (space, None) if space.is_whitespace() => words.extend(word.take()),
            (other, _) => word.get_or_insert_default().push(other),
        }
    }
    match quote {
        Some(quote) => Err(UsageError(format!("a quotation mark {quote} is not closed"))),
        None => {
            words.extend(word);
            Ok(words)
        }
    }
}

/// The names of the commands, for completion.
struct Commands {
    names: Vec<String>,
}

impl Commands {
    fn new() -> Commands {
        let mut names: Vec<String> =
            Line::command().get_subcommands().map(|command| command.get_name().to_owned()).collect();
        names.extend(["exit", "help", "quit"].map(str::to_owned));
        names.sort();
        Commands { names }
    }
}

impl Completer for Commands {
    type Candidate = String;

    fn complete(&self, line: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok((0, self.candidates(&line[..position])))
    }
}

impl Commands {
    /// What the start of a line may become: the first word is a command, and so is what `help` is asked about.
    fn candidates(&self, line: &str) -> Vec<String> {
        let (before, start) = match line.strip_prefix("help ") {
            Some(rest) => ("help ", rest),
            None => ("", line),
        };
        let names = self.names.iter().filter(|name| !start.contains(' ') && name.starts_with(start));
        names.map(|name| format!("{before}{name} ")).collect()
    }
}

impl Hinter for Commands {
    type Hint = String;
}

impl Highlighter for Commands {}
impl Validator for Commands {}
impl Helper for Commands {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_into_words_as_a_shell_would() {
        let words = |line: &str| split(line).expect("valid");
        assert_eq!(words("incr  apples 3 "), ["incr", "apples", "3"]);
        assert_eq!(
            words(r#"get 'two words' "it's" a\ b "\"" '' '\n'"#),
            ["get", "two words", "it's", "a b", "\"", "", "\\n"]
        );
        assert!(words(" \t").is_empty());
        assert!(split("get 'open").is_err() && split("get \\").is_err());
    }

    #[test]
    fn commands_are_completed() {
        let commands = Commands::new();
        assert_eq!(commands.candidates("st"), ["status "]);
        assert_eq!(commands.candidates("help t"), ["help top "]);
        assert!(commands.candidates("").len() > 6);
        assert!(commands.candidates("get st").is_empty());
        assert!(Line::try_parse_from(["incr", "a", "-3"]).is_ok());
        assert!(Line::try_parse_from(["help", "incr"]).is_err(), "help is printed");
    }
}
