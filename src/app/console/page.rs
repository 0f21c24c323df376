//! The status page: one HTML page without scripts that reloads itself. Everything from outside is escaped.

use std::borrow::Borrow;
use std::fmt::{self, Write};

use super::view::{CallView, Readiness, Snapshot};

/// What the browser may load: our own style sheet and nothing else.
pub const POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;\
color:#1c2430;background:#f7f8fa}h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}\
table{border-collapse:collapse;width:100%;background:#fff}\
th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid #e3e6ea;vertical-align:top}\
.ready{color:#17734a}.degraded{color:#96660a}.not_ready{color:#b3261e}\
@media(prefers-color-scheme:dark){body{color:#e6e8eb;background:#14181d}table{background:#1b2027}\
th,td{border-color:#2c333c}.ready{color:#5fce9b}.degraded{color:#e0b04c}.not_ready{color:#ff8a80}}";

/// The page of one snapshot.
pub fn page(snapshot: &Snapshot) -> String {
    let mut page = String::with_capacity(4 * 1024);
    match write_page(&mut page, snapshot) {
        Ok(()) => page,
        Err(fmt::Error) => String::new(),
    }
}

fn write_page(out: &mut String, snapshot: &Snapshot) -> fmt::Result {
    let (class, word) = match snapshot.parts.readiness() {
        Readiness::Ready => ("ready", "ready"),
        Readiness::Degraded => ("degraded", "degraded"),
        Readiness::NotReady => ("not_ready", "not ready"),
    };
    let name = Escaped(&snapshot.appliance);
    write!(
        out,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"2\">\
         <meta name=\"viewport\" content=\"width=device-width\"><link rel=\"stylesheet\" href=\"/style.css\">\
         <title>{name}: {word}</title></head><body><h1>{name} <span class=\"{class}\">{word}</span></h1>\
         <p>Eyeline {}, up {}. {} live, {} recent. <a href=\"/metrics\">metrics</a> \
         <a href=\"/api/v1/calls\">calls as JSON</a></p>",
        env!("CARGO_PKG_VERSION"),
        Clock(snapshot.uptime.as_secs()),
        snapshot.calls.len(),
        snapshot.recent.len(),
    )?;
    write!(out, "<h2>Parts</h2><table><tr><th>Part</th><th>State</th></tr>")?;
    for (kind, part) in snapshot.parts.all() {
        let (class, state) = if part.ok { ("ready", "ok") } else { ("not_ready", part.detail.as_str()) };
        write!(
            out,
            "<tr><td>{kind} {}</td><td class=\"{class}\">{}</td></tr>",
            Escaped(&part.name),
            Escaped(state)
        )?;
    }
    out.write_str("</table>")?;
    calls(out, "Live calls", &snapshot.calls)?;
    calls(out, "Recent calls", &snapshot.recent)?;
    out.write_str("</body></html>\n")
}

fn calls<T: Borrow<CallView>>(out: &mut String, title: &str, calls: &[T]) -> fmt::Result {
    write!(
        out,
        "<h2>{title}</h2><table><tr><th>Call</th><th>From</th><th>To</th><th>Agent</th><th>State</th><th>Time</th>\
         <th>Audio</th><th>Video</th></tr>"
    )?;
    for call in calls {
        let call = call.borrow();
        let state = call.end_reason.as_deref().unwrap_or(&call.state);
        write!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>",
            Escaped(&call.id),
            Escaped(&call.from),
            Escaped(&call.to),
            Escaped(&call.agent),
            Escaped(state),
            Clock(call.duration.as_secs()),
        )?;
        if let Some(audio) = &call.audio {
            write!(
                out,
                "{} · lost {} · jitter {:.0} ms",
                Escaped(&audio.codec),
                audio.packets_lost,
                audio.jitter_ms
            )?;
            if let Some(quality) = &audio.quality {
                write!(out, " · MOS {:.1}", quality.mos)?;
            }
        }
        out.write_str("</td><td>")?;
        if let Some(video) = &call.video {
            write!(
                out,
                "{} {}×{} · {:.1}/{:.1} fps · age {:.0} ms · lost {} · slate {}",
                Escaped(&video.stream.codec),
                video.width,
                video.height,
                video.fps_in,
                video.fps_out,
                video.age_ms,
                video.stream.packets_lost,
                video.pictures_withheld,
            )?;
        }
        out.write_str("</td></tr>")?;
    }
    out.write_str("</table>")
}

/// Text that cannot become markup.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Seconds as `h:mm:ss`.
struct Clock(u64);

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:02}:{:02}", self.0 / 3600, self.0 / 60 % 60, self.0 % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::{Part, VideoView};
    use super::*;

    #[test]
    fn what_callers_send_never_becomes_markup() {
        let nasty = "<script>alert('x')</script>\"&";
        let call = CallView {
            id: nasty.into(),
            from: nasty.into(),
            to: nasty.into(),
            agent: nasty.into(),
            state: nasty.into(),
            video: Some(VideoView::default()),
            ..CallView::default()
        };
        let mut snapshot = Snapshot { appliance: nasty.into(), calls: vec![call], ..Snapshot::default() };
        snapshot.parts.disk = Part::bad(nasty, nasty);
        let page = page(&snapshot);
        assert!(!page.contains("<script") && !page.contains("alert('"), "{page}");
        assert_eq!(
            page.matches("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot;&amp;").count(),
            9,
            "{page}"
        );
    }
}
