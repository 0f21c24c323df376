//! What values must be together: ports that do not collide, names that exist, doors that are not left open.
//! What one value must be on its own is [`super::read`]'s.

use std::net::IpAddr;

use super::section::{Reading, did_you_mean};
use super::settings::{Agent, Config, DEFAULT_RECORDING, Listen, Transport};

/// Two ports for audio, two for video: one call.
const PORTS_MIN: u16 = 4;

/// Reports what does not fit together.
pub fn check(config: &Config, reading: &Reading) {
    listens(config, reading);
    rtp_ports(config, reading);
    routes(config, reading);
    console(config, reading);
    if config.sip.trusted.is_empty() {
        reading.warning("sip.trusted", "nobody may call");
    }
}

fn listens(config: &Config, reading: &Reading) {
    let listens = &config.sip.listen;
    if listens.is_empty() {
        reading.problem("sip.listen", "nothing to listen on; write at least [\"udp:0.0.0.0:5060\"]");
    }
    for (n, one) in listens.iter().enumerate() {
        if let Some(earlier) = listens.iter().take(n).find(|earlier| collide(earlier, one)) {
            reading.problem(&format!("sip.listen[{n}]"), format!("\"{earlier}\" already covers it"));
        }
        let family = |address: IpAddr| if address.is_ipv4() { "IPv4" } else { "IPv6" };
        if let Some(advertise) = config.sip.advertise
            && family(advertise) != family(one.address.ip())
        {
            let message =
                format!("{advertise} cannot stand for \"{one}\", which is {}", family(one.address.ip()));
            reading.warning("sip.advertise", message);
        }
    }
}

/// Whether binding both must fail.
fn collide(a: &Listen, b: &Listen) -> bool {
    let (ip_a, ip_b) = (a.address.ip(), b.address.ip());
    let covers = ip_a == ip_b
        || (ip_a.is_ipv4() == ip_b.is_ipv4() && (ip_a.is_unspecified() || ip_b.is_unspecified()));
    a.transport == b.transport && a.address.port() == b.address.port() && a.address.port() != 0 && covers
}

fn rtp_ports(config: &Config, reading: &Reading) {
    let (first, last) = config.media.rtp_ports;
    let key = "media.rtp_ports";
    if last < first || last - first + 1 < PORTS_MIN {
        reading.problem(key, format!("{first} to {last} is too small: one call takes {PORTS_MIN} ports"));
    }
    if first % 2 == 1 {
        // RFC 3550 §11: RTP on even ports.
        reading.problem(key, format!("the first port must be even; write {}", u32::from(first) + 1));
    }
    let taken = |listen: &&Listen| {
        listen.transport == Transport::Udp && (first..=last).contains(&listen.address.port())
    };
    if let Some(listen) = config.sip.listen.iter().find(taken) {
        reading.problem(key, format!("SIP listens on \"{listen}\", inside the range"));
    }
}

fn routes(config: &Config, reading: &Reading) {
    if config.routes.is_empty() {
        reading.warning("route", "no route: every call gets 404");
    }
    for (n, route) in config.routes.iter().enumerate() {
        let key = |key: &str| format!("route[{n}].{key}");
        match config.agents.get(&route.agent) {
            None => {
                let help = did_you_mean(&route.agent, config.agents.keys().map(String::as_str));
                reading.problem(&key("agent"), format!("there is no [agent.{}]{help}", route.agent));
            }
            Some(Agent::Record) if route.record.is_none() => {
                reading.warning(
                    &key("record"),
                    format!("agent {:?} only records, and this is not recorded", route.agent),
                );
            }
            Some(_) => {}
        }
        for (m, name) in route.detect.iter().enumerate() {
            if !config.detectors.contains_key(name) {
                let help = did_you_mean(name, config.detectors.keys().map(String::as_str));
                reading.problem(
                    &format!("{}[{m}]", key("detect")),
                    format!("there is no [detector.{name}]{help}"),
                );
            }
        }
        if let Some(name) = route.record.as_ref().filter(|name| !config.recording.contains_key(*name)) {
            let names = config.recording.keys().map(String::as_str).filter(|name| *name != DEFAULT_RECORDING);
            let help = did_you_mean(name, names);
            reading.problem(&key("record"), format!("there is no [recording.{name}]{help}"));
        }
        for name in route.headers.keys().filter(|name| !is_token(name)) {
            reading.problem(&key(&format!("header.{name}")), "no header of SIP can have this name");
        }
        if route.censor && !config.censor.hides() {
            reading.problem(
                &key("censor"),
                "censor.targets and censor.zones are empty: there is nothing to hide",
            );
        }
        if route.video && config.media.video_codecs.is_empty() {
            reading.problem(&key("video"), "media.video_codecs is empty: no call can have video");
        }
        if let Some(earlier) = config.routes.iter().take(n).position(|route| route.takes_everything()) {
            reading
                .warning(&format!("route[{n}]"), format!("never reached: route[{earlier}] takes every call"));
        }
    }
}

/// RFC 3261 §25.1.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&byte))
}

fn console(config: &Config, reading: &Reading) {
    let Some(address) = config.console.listen else { return };
    if !address.ip().to_canonical().is_loopback()
        && config.console.password.is_empty()
        && config.console.token.is_empty()
    {
        reading.problem(
            "console.listen",
            format!("{address} can be reached from outside: set console.password or console.token, or listen on 127.0.0.1"),
        );
    }
    let console = Listen { transport: Transport::Tcp, address };
    if let Some(listen) = config.sip.listen.iter().find(|listen| collide(listen, &console)) {
        reading.problem("console.listen", format!("SIP already listens on \"{listen}\""));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Given, load};

    fn problems(sets: &[&str]) -> Vec<String> {
        let sets = sets.iter().map(|set| (*set).to_owned()).collect();
        let given = Given { files: vec!["/dev/null".into()], sets, ..Given::default() };
        match load(&given) {
            Ok(_) => Vec::new(),
            Err(problems) => {
                problems.0.iter().map(|problem| format!("{}: {}", problem.key, problem.message)).collect()
            }
        }
    }

    /// One problem whose line contains `expected`.
    fn check(set: &str, expected: &str) {
        let found = problems(&[set]);
        assert_eq!(found.len(), 1, "{set}: {found:#?}");
        assert!(found[0].contains(expected), "{set}: {found:#?}");
    }

    #[test]
    fn single_values_are_checked() {
        check("sip.listen=['udp:0.0.0.0']", "no port");
        check("sip.listen=['tls:0.0.0.0:5061']", "tls is not in this version");
        check("sip.listen=['udb:0.0.0.0:5060']", "did you mean \"udp\"?");
        check("sip.listen=['udp:localhost:5060']", "no address and port");
        check("sip.listen=[]", "nothing to listen on");
        check("sip.trusted=['10.0.0.1/8']", "did you mean \"10.0.0.0/8\"?");
        check("sip.trusted=['10.0.0.0/40']", "is no network");
        check("sip.advertise=0.0.0.0", "cannot reach");
        check("sip.strangers=challenge", "not in this version");
        check("sip.tls={certificate='x'}", "sip.tls: not in this version");
        check("sip.busy=404", "503 or 486");
        check("media.rtp_ports=[20001, 20999]", "must be even; write 20002");
        check("media.rtp_ports=[20000, 20002]", "too small");
        check("media.rtp_ports=[30000, 20000]", "too small");
        check("media.rtp_ports=[20000]", "first and the last");
        check("media.rtp_ports=[20000, 70000]", "1024 to 65535");
        check("media.audio_codecs=[]", "at least one");
        check("media.audio_codecs=['opus']", "not in this version");
        check("media.audio_codecs=['pcma', 'pcma']", "stands twice");
        check("video.max_width=641", "even sides; write 640");
        check("video.fps=0", "1 to 60");
        check("video.encoder=x264", "did you mean \"libx264\"?");
        check("detector.plates={confidence=0.4}", "say which model");
        check("detector.faces.iou=high", "or \"auto\"");
        check("censor.style=blurr", "did you mean \"blur\"?");
        check("censor.margin=-1", "0 to 2");
        check("censor.on_failure=pass", "none of slate, blur_frame");
        check("censor.zones=[[[0,0],[1,1]]]", "three corners");
        check("censor.zones=[[[0,0],[1,1],[2,1]]]", "from 0 to 1");
        check("censor.zones=[[[0,0],[1,1],[1]]]", "three corners");
        check("filters.transforms=['sepai']", "did you mean \"sepia\"?");
        check("filters.resize=[640]", "[width, height]");
        check("overlay.watermark='{nam}'", "did you mean \"name\"?");
        check("overlay.watermark='{name'", "other half");
        check("overlay.watermark='name}'", "other half");
        for wrong in ["white", "ffffff", "#fff", "#gggggg", "#ffffff0", "", "#+12345", "#ééé"] {
            check(&format!("overlay.watermark_color={wrong}"), "is no colour");
        }
        check("overlay.captions=true", "not in this version");
    }

    #[test]
    fn sections_are_checked_against_each_other() {
        check("sip.listen=['udp:0.0.0.0:5060', 'udp:127.0.0.1:5060']", "already covers it");
        check("sip.listen=['udp:0.0.0.0:20002']", "inside the range");
        check("console.listen='0.0.0.0:8080'", "can be reached from outside");
        check("console.listen='127.0.0.1:5060'", "SIP already listens");
        check("route=[{agent='none'}]", "there is no [agent.none]");
        check("route=[{detect=['object']}]", "did you mean \"objects\"?");
        check("route=[{record='nigth'}]", "there is no [recording.nigth]");
        check("route=[{source='10.0.0.0/33'}]", "is no network");
        check("route=[{agnt='mirror'}]", "did you mean \"agent\"?");
        check("route=[{header={'X Door'='a'}}]", "no header of SIP");
        check("agent.x={kind='pipeline'}", "not in this version");
        check("agent.x={kind='record', greeting='hello'}", "only an agent of kind \"mirror\"");
        check("agent.x={audio='echo'}", "say what it does");
        assert_eq!(problems(&["console.listen='0.0.0.0:8080'", "console.token=abc"]), [""; 0]);
        let both = ["censor.targets=[]", "route=[{censor=true}]"];
        assert!(problems(&both)[0].contains("nothing to hide"), "{:?}", problems(&both));
        assert_eq!(problems(&["censor.targets=[]"]), [""; 0]);
        assert_eq!(problems(&["media.video_codecs=[]"]), [""; 0]);
    }

    #[test]
    fn no_problem_shows_a_secret() {
        for set in [
            "console.password=1234",
            "console.token=['1234']",
            "console.pasword='1234'",
            "console.password='${1234'",
        ] {
            let given =
                Given { files: vec!["/dev/null".into()], sets: vec![set.to_owned()], ..Given::default() };
            let text = load(&given).unwrap_err().to_string();
            assert!(!text.contains("1234"), "{text}");
        }
    }
}
