//! Driver. Passwords and tokens: written plainly or as a reference to the environment, a systemd credential or a file.
//!
//! A [`Secret`] is never shown: `Debug` hides it, it has no `Display`, and printing a configuration writes the
//! reference or [`LEFT_OUT`].

use std::fmt;
use std::path::Path;

use super::Given;

/// Stands in a printed configuration for a secret that was written plainly. Reading it back is an error.
pub const LEFT_OUT: &str = "${left-out}";

/// A resolved secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret {
    /// The reference it was read through; `None`: written plainly.
    reference: Option<String>,
    value: String,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "Secret(none)" } else { "Secret(…)" })
    }
}

/// Why a secret could not be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// A systemd credential outside systemd, while nothing is going to be run.
    NotHere(String),
    Wrong(String),
}

impl Secret {
    pub fn plain(value: impl Into<String>) -> Self {
        Secret { reference: None, value: value.into() }
    }

    pub fn is_empty(&self) -> bool {
        self.value.is_empty() && self.reference.is_none()
    }

    /// The secret itself. Not for logs, pages or errors.
    pub fn expose(&self) -> &str {
        &self.value
    }

    /// What may be written into a printed configuration.
    pub fn shown(&self) -> &str {
        match &self.reference {
            Some(reference) => reference,
            None if self.value.is_empty() => "",
            None => LEFT_OUT,
        }
    }

    /// Resolves what was written: plain text, `${env:NAME}`, `${credential:NAME}` or `${file:PATH}`.
    ///
    /// # Errors
    /// Says what is missing and what to do.
    pub fn resolve(written: &str, given: &Given) -> Result<Secret, Missing> {
        let Some(inner) = written.strip_prefix("${") else {
            return Ok(Secret::plain(written));
        };
        if written == LEFT_OUT {
            return Err(Missing::Wrong(
                "this configuration was printed without its secrets; put it in again".into(),
            ));
        }
        let reference = inner.strip_suffix('}').and_then(|inner| inner.split_once(':'));
        let value = match reference {
            Some(("env", name)) => given
                .variable(name)
                .map(str::to_owned)
                .ok_or_else(|| Missing::Wrong(format!("the environment variable {name} is not set"))),
            Some(("credential", name)) => credential(name, given),
            Some(("file", path)) => read(Path::new(path)),
            _ => Err(Missing::Wrong(
                "a reference is ${env:NAME}, ${credential:NAME} or ${file:PATH}".to_owned(),
            )),
        }?;
        if value.is_empty() {
            return Err(Missing::Wrong(format!("{written} is empty")));
        }
        Ok(Secret { reference: Some(written.to_owned()), value })
    }

    /// A reference that was not followed.
    pub fn unresolved(written: &str) -> Secret {
        Secret { reference: Some(written.to_owned()), value: String::new() }
    }
}

fn credential(name: &str, given: &Given) -> Result<String, Missing> {
    if name.is_empty() || name.contains('/') {
        return Err(Missing::Wrong(format!("{name:?} is not the name of a credential")));
    }
    match given.variable("CREDENTIALS_DIRECTORY") {
        Some(folder) => read(&Path::new(folder).join(name)),
        None => {
            let text = format!("no systemd credentials here; give the unit LoadCredential={name}:PATH");
            Err(if given.only_looking { Missing::NotHere(text) } else { Missing::Wrong(text) })
        }
    }
}

fn read(path: &Path) -> Result<String, Missing> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim_end_matches(['\n', '\r']).to_owned()),
        Err(error) => Err(Missing::Wrong(format!("{} cannot be read: {error}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_followed_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("door"), "hunter2\n").unwrap();
        let given = Given {
            environment: vec![
                ("TOKEN".into(), "hunter2".into()),
                ("CREDENTIALS_DIRECTORY".into(), folder.path().display().to_string()),
            ],
            ..Given::default()
        };
        let file = format!("${{file:{}}}", folder.path().join("door").display());
        for written in ["${env:TOKEN}", "${credential:door}", &file] {
            let secret = Secret::resolve(written, &given).unwrap();
            assert_eq!(secret.expose(), "hunter2", "{written}");
            assert_eq!(secret.shown(), written);
            assert_eq!(format!("{secret:?}"), "Secret(…)");
        }
        let plain = Secret::resolve("hunter2", &given).unwrap();
        assert_eq!((plain.expose(), plain.shown()), ("hunter2", LEFT_OUT));
    }

    #[test]
    fn what_is_missing_is_said() {
        let given = Given::default();
        let check = |written: &str, expected: &str| match Secret::resolve(written, &given) {
            Err(Missing::Wrong(text)) => assert!(text.contains(expected), "{written}: {text}"),
            other => panic!("{written}: {other:?}"),
        };
        check("${env:NOPE}", "NOPE is not set");
        check("${credential:door}", "LoadCredential=door");
        check("${credential:../shadow}", "not the name");
        check("${file:/nonexistent/secret}", "cannot be read");
        check("${vault:x}", "a reference is");
        check("${env:NOPE", "a reference is");
        check(LEFT_OUT, "put it in again");
    }
}
