//! Every dependency's licence, as its package states it, against what this project can be distributed with.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

/// Licences any dependency may have (SPDX identifiers): permissive, no condition on the whole program.
const ALLOWED: [&str; 10] = [
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "CC0-1.0",
    "Unicode-3.0",
];

/// Packages with another licence, each looked at: which, and why it may stay.
const LISTED: [(&str, &str, &str); 5] = [
    (
        "epaint_default_fonts",
        "OFL-1.1",
        "fonts drawn into pictures; the font licences ask for their texts to be kept",
    ),
    ("epaint_default_fonts", "Ubuntu-font-1.0", "as above"),
    ("ffmpeg-next", "WTFPL", "asks for nothing; what FFmpeg itself asks for is in the README"),
    ("ffmpeg-sys-next", "WTFPL", "as above"),
    ("webpki-roots", "CDLA-Permissive-2.0", "root certificates: a permissive licence for data"),
];

/// Packages in the build for this machine, by the lock file, without the network.
fn packages() -> Vec<Value> {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform", &platform])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let built: BTreeSet<&str> =
        array(&metadata["resolve"]["nodes"]).iter().filter_map(|node| node["id"].as_str()).collect();
    array(&metadata["packages"])
        .iter()
        .filter(|package| package["id"].as_str().is_some_and(|id| built.contains(id)))
        .cloned()
        .collect()
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Does an SPDX expression offer a way to use the package that `allowed` accepts? `/` is the old way to write OR.
fn permits(expression: &str, allowed: &dyn Fn(&str) -> bool) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    let answer = any_of(&mut rest, allowed);
    answer && rest.is_empty()
}

fn any_of(words: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> bool {
    let mut answer = all_of(words, allowed);
    while let ["OR", rest @ ..] = words {
        *words = rest;
        answer |= all_of(words, allowed);
    }
    answer
}

fn all_of(words: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> bool {
    let mut answer = one(words, allowed);
    while let ["AND", rest @ ..] = words {
        *words = rest;
        answer &= one(words, allowed);
    }
    answer
}

fn one(words: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> bool {
    match *words {
        ["(", rest @ ..] => {
            *words = rest;
            let answer = any_of(words, allowed);
            if let [")", rest @ ..] = words {
                *words = rest;
                return answer;
            }
            false
        }
        [licence, "WITH", exception, rest @ ..] => {
            *words = rest;
            allowed(&format!("{licence} WITH {exception}"))
        }
        [licence, rest @ ..] => {
            *words = rest;
            allowed(licence)
        }
        [] => false,
    }
}

#[test]
fn every_dependency_may_be_distributed() {
    let packages = packages();
    assert!(packages.len() > 50, "the whole tree is looked at");
    let mut refused = Vec::new();
    for package in &packages {
        let name = package["name"].as_str().unwrap_or_default();
        let allowed = |licence: &str| {
            ALLOWED.contains(&licence)
                || LISTED.iter().any(|(listed, its, _)| (*listed, *its) == (name, licence))
        };
        match package["license"].as_str() {
            Some(expression) if permits(expression, &allowed) => {}
            other => refused.push(format!(
                "{name} {}: {}",
                package["version"],
                other.unwrap_or("no licence stated")
            )),
        }
    }
    assert!(refused.is_empty(), "look at these, then list or replace them:\n{}", refused.join("\n"));
}

#[test]
fn every_listed_exception_is_still_used() {
    let packages = packages();
    for (name, licence) in LISTED.iter().map(|(name, licence, _)| (*name, *licence)) {
        let used = packages.iter().any(|package| {
            package["name"] == name && package["license"].as_str().is_some_and(|text| text.contains(licence))
        });
        assert!(used, "{name} ({licence}) is listed but no longer a dependency");
    }
}

#[test]
fn expressions_are_read_with_their_precedence() {
    let allowed = |licence: &str| matches!(licence, "MIT" | "ISC" | "Apache-2.0 WITH LLVM-exception");
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("GPL-3.0 OR MIT AND ISC", true),
        ("(GPL-3.0 OR MIT) AND Apache-2.0", false),
        ("(GPL-3.0 OR MIT) AND ISC", true),
        ("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true),
        ("Apache-2.0", false),
        ("MIT AND (", false),
        ("", false),
    ] {
        assert_eq!(permits(expression, &allowed), expected, "{expression:?}");
    }
}

#[test]
fn the_projects_own_licence_is_complete() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    assert_eq!(env!("CARGO_PKG_LICENSE"), "MIT OR Apache-2.0");
    for (file, says) in
        [("LICENSE-MIT", "Permission is hereby granted"), ("LICENSE-APACHE", "Version 2.0, January 2004")]
    {
        let text = std::fs::read_to_string(root.join(file)).expect(file);
        assert!(text.contains(says), "{file}");
    }
    let readme = std::fs::read_to_string(root.join("README.md")).expect("README.md");
    assert!(readme.contains("GPL"), "the README says what linking a GPL FFmpeg means for binaries");
}
