//! Collects the values of the options: defaults, environment, file, command line.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use clap::ArgMatches;
use clap::parser::ValueSource;

use crate::production::config::options::{CLIENT_VARIABLES, OPTIONS, OptionSpec};

/// Where a value came from, the weakest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    Environment(String),
    File(PathBuf),
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::File(path) => write!(f, "file {}", path.display()),
            Origin::CommandLine => f.write_str("command line"),
        }
    }
}

/// The configuration cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{path}: {error}")]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{path}: {message}")]
    Parse { path: PathBuf, message: String },
}

/// Values by option, each with its origin; text as the user wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values {
    values: BTreeMap<&'static str, (String, Origin)>,
    /// Variables that look like options and are none.
    pub unknown_variables: Vec<String>,
    /// Variables that may be options and are not UTF-8.
    pub not_text: Vec<String>,
}

impl Values {
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|(text, _)| text.as_str())
    }

    pub fn origin(&self, name: &str) -> Option<&Origin> {
        self.values.get(name).map(|(_, origin)| origin)
    }

    /// Option, and value and origin if it is set, in the order of the options. Credentials are not shown.
    pub fn shown(&self) -> Vec<(&'static str, Option<(String, Origin)>)> {
        let shown = OPTIONS.iter().map(|option| {
            let value = self.values.get(option.name).map(|(text, origin)| {
                let text = if option.secret { "(hidden)".to_owned() } else { text.clone() };
                (text, origin.clone())
            });
            (option.name, value)
        });
        shown.collect()
    }

    fn set(&mut self, option: &'static OptionSpec, text: String, origin: Origin) {
        self.values.insert(option.name, (text, origin));
    }
}

/// Collects from the process's environment, the file that it or the command line names, and the command line.
pub fn load(matches: &ArgMatches) -> Result<Values, LoadError> {
    let (mut variables, mut not_text) = (Vec::new(), Vec::new());
    for (name, text) in std::env::vars_os() {
        let may_be_option = name.as_encoded_bytes().starts_with(b"ASPEN_");
        match (name.into_string(), text.into_string()) {
            (Ok(name), Ok(text)) => variables.push((name, text)),
            (name, _) if may_be_option => {
                not_text.push(name.unwrap_or_else(|name| name.to_string_lossy().into_owned()));
            }
            // It is somebody else's.
            _ => {}
        }
    }
    not_text.sort();
    Ok(Values { not_text, ..load_from(matches, variables)? })
}

/// The same with these variables for the environment.
pub fn load_from(
    matches: &ArgMatches,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Values, LoadError> {
    let mut values = Values::default();
    for option in OPTIONS.iter().filter(|option| !option.default.is_empty()) {
        values.set(option, option.default.to_owned(), Origin::Default);
    }
    for (name, text) in variables {
        match OPTIONS.iter().find(|option| option.env_name() == name) {
            Some(option) => values.set(option, text, Origin::Environment(name)),
            None if name.starts_with("ASPEN_") && !CLIENT_VARIABLES.contains(&name.as_str()) => {
                values.unknown_variables.push(name);
            }
            None => {}
        }
    }
    values.unknown_variables.sort();
    let given = |option: &OptionSpec| {
        let of_user = matches.value_source(option.name) == Some(ValueSource::CommandLine);
        of_user.then(|| match option.is_switch() {
            true => matches.get_flag(option.name).to_string(),
            false => matches.get_one::<String>(option.name).cloned().unwrap_or_default(),
        })
    };
    let command_line: Vec<_> = OPTIONS
        .iter()
        .filter(|option| !option.secret)
        .filter_map(|option| given(option).map(|text| (option, text)))
        .collect();
    let named = command_line.iter().find(|(option, _)| option.name == "config").map(|(_, text)| text.clone());
    if let Some(path) = named.or_else(|| values.text("config").map(str::to_owned)) {
        read_file(&mut values, PathBuf::from(path))?;
    }
    for (option, text) in command_line {
        values.set(option, text, Origin::CommandLine);
    }
    Ok(values)
}

fn read_file(values: &mut Values, path: PathBuf) -> Result<(), LoadError> {
    let text = std::fs::read_to_string(&path).map_err(|error| LoadError::Read { path: path.clone(), error })?;
    let fail = |message: String| LoadError::Parse { path: path.clone(), message };
    let table: toml::Table = toml::from_str(&text).map_err(|error| fail(error.to_string()))?;
    for (name, value) in table {
        let Some(option) = OPTIONS.iter().find(|option| option.name == name.replace('_', "-")) else {
            return Err(fail(format!("{name} is not an option; `aspen-node --help` lists them")));
        };
        if option.secret || option.name == "config" {
            return Err(fail(format!("{name} does not belong into the file")));
        }
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(on) => on.to_string(),
            toml::Value::Array(items) => {
                let texts: Option<Vec<_>> = items.iter().map(|item| item.as_str().map(str::to_owned)).collect();
                texts.ok_or_else(|| fail(format!("{name}: a list of texts is expected")))?.join(",")
            }
            _ => return Err(fail(format!("{name}: a text, a number or true or false is expected"))),
        };
        values.set(option, text, Origin::File(path.clone()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::production::config::command;

    fn values(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Values, LoadError> {
        let arguments = std::iter::once("aspen-node").chain(arguments.iter().copied());
        let matches = command().try_get_matches_from(arguments).unwrap();
        load_from(&matches, variables.iter().map(|(name, text)| (name.to_string(), text.to_string())))
    }

    #[test]
    fn the_command_line_overrules_the_file_and_the_file_the_environment() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("aspen.toml");
        std::fs::write(&path, "node-id = 7\ndata_dir = \"file\"\npeers = [\"a\", \"b\"]\n").unwrap();
        let variables = [
            ("ASPEN_CONFIG", path.to_str().unwrap()),
            ("ASPEN_NODE_ID", "1"),
            ("ASPEN_HTTP_ADDR", "1.2.3.4:5"),
            ("ASPEN_DATA_DIRECTORY", "typo"),
            ("ASPEN_ENDPOINT", "http://127.0.0.1:8080"),
            ("HOME", "/"),
        ];
        let values = values(&["--data-dir", "line", "--dev"], &variables).unwrap();
        let of = |name| (values.text(name).unwrap(), values.origin(name).unwrap().clone());
        assert_eq!(of("data-dir"), ("line", Origin::CommandLine));
        assert_eq!(of("node-id"), ("7", Origin::File(path)));
        assert_eq!(of("http-addr"), ("1.2.3.4:5", Origin::Environment("ASPEN_HTTP_ADDR".to_owned())));
        assert_eq!(of("snapshot-entries"), ("20000", Origin::Default));
        assert_eq!(of("peers").0, "a,b");
        assert_eq!(of("dev").0, "true");
        assert_eq!(values.unknown_variables, ["ASPEN_DATA_DIRECTORY"]);
    }

    #[test]
    fn a_credential_is_never_shown() {
        let values = values(&[], &[("ASPEN_HTTP_TOKEN", "very secret indeed")]).unwrap();
        assert_eq!(values.text("http-token"), Some("very secret indeed"));
        assert!(!format!("{:?}", values.shown()).contains("very secret"));
    }

    #[test]
    fn a_file_that_makes_no_sense_is_refused_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("aspen.toml");
        let cases = [
            ("node-ident = 1", "not an option"),
            ("http-token = \"secret\"", "does not belong"),
            ("peers = [1]", "a list of texts"),
            ("node-id = 1.5", "a text, a number"),
            ("node-id =", "TOML parse error"),
        ];
        for (text, expected) in cases {
            std::fs::write(&path, text).unwrap();
            let error = values(&["--config", path.to_str().unwrap()], &[]).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("aspen.toml"), "{text}: {error}");
        }
        let error = values(&["--config", "/nowhere.toml"], &[]).unwrap_err();
        assert!(matches!(error, LoadError::Read { .. }));
    }
}
