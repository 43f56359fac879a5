//! `--name value` pairs. A parser library would be the largest dependency of this binary.

use std::collections::BTreeMap;
use std::error::Error;
use std::str::FromStr;

/// The options that were given and not yet asked for.
pub struct Arguments {
    given: BTreeMap<String, String>,
}

impl Arguments {
    /// Reads `--name value` and `--name=value`.
    ///
    /// # Errors
    /// A word without `--`, an option without a value, an option given twice.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut given = BTreeMap::new();
        while let Some(word) = words.next() {
            let Some(option) = word.strip_prefix("--") else {
                return Err(format!("unexpected {word:?}; options start with --").into());
            };
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name.to_owned(), value.to_owned()),
                None => {
                    let value = words.next().ok_or_else(|| format!("--{option} needs a value"))?;
                    (option.to_owned(), value)
                }
            };
            if given.insert(name.clone(), value).is_some() {
                return Err(format!("--{name} is given twice").into());
            }
        }
        Ok(Self { given })
    }

    /// Takes an option's text, if it was given.
    pub fn text(&mut self, name: &str) -> Option<String> {
        self.given.remove(name)
    }

    /// Takes an option's text.
    ///
    /// # Errors
    /// The option was not given.
    pub fn required(&mut self, name: &str) -> Result<String, Box<dyn Error>> {
        self.text(name).ok_or_else(|| format!("--{name} is missing").into())
    }

    /// Takes an option and reads it as `T`, if it was given.
    ///
    /// # Errors
    /// The text is no `T`.
    pub fn value<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, Box<dyn Error>> {
        match self.text(name) {
            None => Ok(None),
            Some(text) => match text.parse() {
                Ok(value) => Ok(Some(value)),
                Err(_) => Err(format!("--{name} {text:?} is not understood").into()),
            },
        }
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// An option that nobody asked for is left.
    pub fn finish(self) -> Result<(), Box<dyn Error>> {
        match self.given.into_keys().next() {
            None => Ok(()),
            Some(name) => Err(format!("unknown option --{name}").into()),
        }
    }
}
