//! A request an operator described, made of a model's arguments: its host and its shape are fixed, the arguments fill
//! holes in the path, the query and the body.
//!
//! Pure. Sending it is `talk::link::service`'s.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use reqwest::Url;
use serde_json::{Map, Value};

use super::schema;
use crate::talk::message::ToolSpec;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    fn has_body(self) -> bool {
        match self {
            Method::Post | Method::Put | Method::Patch => true,
            Method::Get | Method::Delete => false,
        }
    }
}

/// `[http_tool.NAME]`, and the request of an `[unlock.NAME]`.
#[derive(Clone, PartialEq)]
pub struct Service {
    pub name: String,
    pub description: String,
    pub method: Method,
    /// With holes, `{city}`, behind the host.
    pub url: String,
    /// Their values may be secrets.
    pub headers: Vec<(String, String)>,
    /// Sent as it is; `None`: the arguments as JSON, where the method has a body.
    pub body: Option<String>,
    /// Of the arguments; one that [`schema::check`] took.
    pub schema: Value,
    pub timeout: Duration,
    /// Of an answer, what is beyond is cut off.
    pub max_bytes: usize,
    /// The host may be one of the own network over https too; plain http goes nowhere else.
    pub near: bool,
}

/// Without the values of headers.
impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Service({} {:?} {})", self.name, self.method, self.url)
    }
}

/// A request that is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    pub url: Url,
    pub body: Option<String>,
}

impl Service {
    /// As a model is told of it.
    pub fn spec(&self) -> ToolSpec {
        let mut parameters = self.schema.clone();
        parameters["additionalProperties"] = Value::Bool(false);
        ToolSpec { name: self.name.clone(), description: self.description.clone(), parameters }
    }

    /// Fills the holes. What is no hole's goes into the body as JSON, or into the query where there is none.
    ///
    /// # Errors
    /// Says in words for the model what is wrong with its arguments.
    pub fn prepare(&self, arguments: &Value) -> Result<Prepared, String> {
        let empty = Value::Object(Map::new());
        let arguments = if arguments.is_null() { &empty } else { arguments };
        schema::validate(&self.schema, arguments)?;
        let members = arguments.as_object().cloned().unwrap_or_default();
        let mut used = BTreeSet::new();
        let filled = fill(&self.url, |name| {
            used.insert(name.to_owned());
            members.get(name).map(plain).unwrap_or_default()
        });
        let mut url =
            filled.ok().and_then(|url| Url::parse(&url).ok()).ok_or("The address cannot be made.")?;
        // A value that climbs (`..`) would change the path it stands in.
        if shape(&url) != holes(&self.url).ok().as_ref().and_then(shape) {
            return Err("An argument cannot be part of an address.".to_owned());
        }
        let rest: Vec<(&String, &Value)> = members.iter().filter(|(name, _)| !used.contains(*name)).collect();
        let mut body = self.body.clone();
        if body.is_none() && self.method.has_body() {
            body = Some(arguments.to_string());
        } else if body.is_none() && !rest.is_empty() {
            url.query_pairs_mut()
                .extend_pairs(rest.iter().map(|(name, value)| (name.as_str(), plain(value))));
        }
        Ok(Prepared { url, body })
    }
}

/// What must stay whatever the arguments are: where it goes, and how deep.
fn shape(url: &Url) -> Option<(String, Option<String>, Option<u16>, usize)> {
    let segments = url.path_segments()?.count();
    Some((url.scheme().to_owned(), url.host_str().map(str::to_owned), url.port(), segments))
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A template with something harmless in its holes.
fn holes(template: &str) -> Result<Url, String> {
    let filled = fill(template, |_| "x".to_owned())?;
    Url::parse(&filled).map_err(|error| error.to_string())
}

/// Puts values, percent-encoded, into holes.
fn fill(template: &str, mut value: impl FnMut(&str) -> String) -> Result<String, String> {
    let mut filled = String::with_capacity(template.len() + 32);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, behind) = after.split_once('}').ok_or("a brace without its other half")?;
        filled.push_str(before);
        for byte in value(name).bytes() {
            // RFC 3986 §2.3, without the dot, which means something in a path.
            if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) {
                filled.push(char::from(byte));
            } else {
                filled.push_str(&format!("%{byte:02X}"));
            }
        }
        rest = behind;
    }
    filled.push_str(rest);
    Ok(filled)
}

/// Looks at an address with holes: http or https, a host without holes, no user in it; its holes.
///
/// # Errors
/// Says what is wrong.
pub fn check_url(template: &str) -> Result<Vec<String>, String> {
    let (scheme, behind) = template.split_once("://").ok_or("write http://… or https://…")?;
    if scheme != "http" && scheme != "https" {
        return Err("write http://… or https://…".to_owned());
    }
    let host = behind.split(['/', '?', '#']).next().unwrap_or_default();
    if host.contains(['{', '}']) {
        return Err("the host is fixed: no { } in it".to_owned());
    }
    let mut names = Vec::new();
    fill(template, |name| {
        names.push(name.to_owned());
        String::new()
    })?;
    let url = holes(template)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("no user in a URL: write a header".to_owned());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(method: Method, url: &str) -> Service {
        Service {
            name: "weather".into(),
            description: "The weather of a city".into(),
            method,
            url: url.into(),
            headers: vec![("authorization".into(), "Bearer secret".into())],
            body: None,
            schema: json!({"type": "object", "properties": {
                "city": {"type": "string"}, "days": {"type": "integer"}}}),
            timeout: Duration::from_secs(5),
            max_bytes: 1000,
            near: false,
        }
    }

    #[test]
    fn arguments_fill_holes_and_the_rest_goes_behind() {
        let get = service(Method::Get, "https://w.example/v1/{city}?key=1");
        let made = get.prepare(&json!({"city": "Bad Urach/ä?&#", "days": 2})).expect("a request");
        assert_eq!(made.url.as_str(), "https://w.example/v1/Bad%20Urach%2F%C3%A4%3F%26%23?key=1&days=2");
        assert_eq!(made.body, None);
        let post = service(Method::Post, "http://10.0.0.2:8080/ring");
        let made = post.prepare(&json!({"city": "Ulm"})).expect("a request");
        assert_eq!(made.body.as_deref(), Some(r#"{"city":"Ulm"}"#));
        let fixed = Service { body: Some("open".into()), ..post };
        assert_eq!(fixed.prepare(&Value::Null).expect("a request").body.as_deref(), Some("open"));
    }

    #[test]
    fn no_argument_leads_elsewhere() {
        let get = service(Method::Get, "https://w.example/v1/{city}/now");
        for value in
            ["..", ".", "../../admin", "%2e%2e", "@evil.example", "\\\\evil", "//evil.example", "a\r\nb"]
        {
            if let Ok(made) = get.prepare(&json!({"city": value})) {
                assert_eq!(made.url.host_str(), Some("w.example"), "{value}");
                assert!(made.url.path().starts_with("/v1/") && made.url.path().ends_with("/now"), "{value}");
            }
        }
        assert!(get.prepare(&json!({"city": ".."})).is_err());
        assert!(get.prepare(&json!({"host": "evil.example"})).is_err(), "not in the schema");
        assert!(!format!("{get:?}").contains("secret"));
    }

    #[test]
    fn addresses_are_looked_at() {
        assert_eq!(
            check_url("https://a.example/{x}/{y}?z={x}"),
            Ok(vec!["x".into(), "y".into(), "x".into()])
        );
        for bad in [
            "ftp://a.example",
            "a.example",
            "https://{host}/x",
            "https://a.{tld}/x",
            "https://me:secret@a.example/",
            "https://a.example/{x",
            "https://",
        ] {
            assert!(check_url(bad).is_err(), "{bad}");
        }
    }
}
