//! What values must be together: ports that do not collide, names that exist, doors that are not left open.
//! What one value must be on its own is [`super::read`]'s.

use super::avatar;
use super::section::{Reading, did_you_mean};
use super::settings::{Agent, Config, DEFAULT_RECORDING, Listen, Transport};
use super::sip;
use super::sip::check::collide;
use super::source;
use super::talk;
use super::tools;

/// Two ports for audio, two for video: one call.
const PORTS_MIN: u16 = 4;

/// Reports what does not fit together.
pub fn check(config: &Config, reading: &Reading) {
    sip::check::check(config, reading);
    rtp_ports(config, reading);
    routes(config, reading);
    talk::check::check(config, reading);
    tools::check::check(config, reading);
    source::check(config, reading);
    avatar::check::check(config, reading);
    console(config, reading);
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
            Some(Agent::Record { .. }) if route.record.is_none() => {
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
        check("sip.listen=['sctp:0.0.0.0:5060']", "is no transport");
        check("sip.listen=['tsl:0.0.0.0:5061']", "did you mean \"tls\"?");
        check("sip.listen=['udb:0.0.0.0:5060']", "did you mean \"udp\"?");
        check("sip.listen=['udp:localhost:5060']", "no address and port");
        check("sip.listen=[]", "nothing to listen on");
        check("sip.trusted=['10.0.0.1/8']", "did you mean \"10.0.0.0/8\"?");
        check("sip.trusted=['10.0.0.0/40']", "is no network");
        check("sip.advertise=0.0.0.0", "cannot reach");
        check("sip.busy=404", "503 or 486");
        check("media.rtp_ports=[20001, 20999]", "must be even; write 20002");
        check("media.rtp_ports=[20000, 20002]", "too small");
        check("media.rtp_ports=[30000, 20000]", "too small");
        check("media.rtp_ports=[20000]", "first and the last");
        check("media.rtp_ports=[20000, 70000]", "1024 to 65535");
        check("media.audio_codecs=[]", "at least one");
        check("media.audio_codecs=['g729']", "opus");
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
        check("overlay.captions=1", "overlay.captions");
        check("picture.snapshot={file='https://a.example/x.png'}", "choose another name");
        check("picture.map={file='/nowhere/map.png'}", "/nowhere/map.png cannot be read");
        check("picture.map={file='data:image/png;base64,aGVsbG8='}", "no JPEG, PNG");
        check("picture.map={file='ftp://a.example/x.png'}", "https://");
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
        check("agent.x={kind='bridge'}", "not in this version");
        check("agent.x={kind='record', greeting='hello'}", "only an agent of kind \"mirror\"");
        check("agent.x={audio='echo'}", "say what it does");
        assert_eq!(problems(&["console.listen='0.0.0.0:8080'", "console.token=abc"]), [""; 0]);
        let both = ["censor.targets=[]", "route=[{censor=true}]"];
        assert!(problems(&both)[0].contains("nothing to hide"), "{:?}", problems(&both));
        assert_eq!(problems(&["censor.targets=[]"]), [""; 0]);
        assert_eq!(problems(&["media.video_codecs=[]"]), [""; 0]);
    }

    #[test]
    fn users_peers_and_accounts_are_checked() {
        check("sip.user=[{password='1'}]", "sip.user[0].name: missing");
        check("sip.user=[{name='a'}]", "sip.user[0].password: write one");
        check("sip.user=[{name='a', password=''}]", "keeps nobody out");
        check("sip.user=[{name='a b', password='1'}]", "is no user part");
        check("sip.user=[{name='a', pasword='1', password='1'}]", "did you mean \"password\"?");
        check(
            "sip.user=[{name='a', password='1'}, {name='a', password='2'}]",
            "sip.user[1].name: \"a\" is already sip.user[0]",
        );
        check("sip.user=[3]", "expected tables");
        check("sip.strangers=challenge", "there is no [[sip.user]]");
        check("sip.peer=[{name='a'}]", "nothing tells this peer");
        check("sip.peer=[{name='a', source='10.0.0.1', srtp='sdes'}]", "none of off, optional, required");
        check("sip.peer=[{name='a', uri='sip:b', source='10.0.0.1/33'}]", "is no network");
        check("sip.peer=[{name='a', source='10.0.0.1', uri='tel:112'}]", "is no SIP URI");
        check("sip.peer=[{name='a', source='10.0.0.1', uri='sip:b:c@d'}]", "no password in a URI");
        check("sip.peer=[{name='a', source='10.0.0.1', uri='sip:b;transport=tpc'}]", "did you mean \"tcp\"?");
        check("sip.peer=[{name='a', source='10.0.0.1', password='1'}]", "come together");
        check("sip.peer=[{name='a', source='10.0.0.1', certificate='Cargo.toml'}]", "private_key: missing");
        check(
            "sip.peer=[{name='a', uri='sip:b', ca='/nonexistent'}]",
            "sip.peer[0].ca: /nonexistent cannot be read",
        );
        check("sip.peer=[{name='a', source='10.0.0.1', tls_name='a b'}]", "is no host name");
        check(
            "sip.peer=[{name='a', source='10.0.0.1'}, {name='b', source=['10.0.0.2', '10.0.0.1']}]",
            "10.0.0.1/32 is already that of sip.peer[0]",
        );
        check("sip.account=[{name='a', registrar='sip:b'}]", "sip.account[0].username: missing");
        check("sip.account=[{name='a', username='200'}]", "registrar: missing");
        check("sip.account=[{name='a', registrar='b', username='200'}]", "this is no URI");
        check(
            "sip.account=[{name='a', registrar='sip:200@b', username='200'}]",
            "without a user part: \"sip:b\"",
        );
        check("sip.account=[{name='a', registrar='sip:b', username='200', expires_s=0}]", "1 to 86400");
        check("sip.min_se_s=2000", "longer than sip.session_expires_s (1800)");
        check("sip.dial_allow=['']", "what may be dialled");
        check("media.srtp=on", "none of off, optional, required");
        let both = problems(&["sip.listen=['tls:0.0.0.0:5061']"]);
        assert!(both.len() == 2 && both.iter().all(|problem| problem.contains("needs one")), "{both:?}");
        check("sip.tls={client_ca='/nonexistent'}", "cannot be read");
        let tls = "sip.tls={certificate='Cargo.toml', private_key='Cargo.toml'}";
        assert_eq!(problems(&["sip.listen=['tls:0.0.0.0:5061', 'wss:0.0.0.0:5063']", tls]), [""; 0]);
        check("sip.listen=['tcp:0.0.0.0:5060', 'ws:127.0.0.1:5060']", "already covers it");
        let user = "sip.user=[{name='door1', password='x'}]";
        assert_eq!(problems(&["sip.strangers=challenge", user]), [""; 0]);
        let same = problems(&[user, "sip.peer=[{name='door1', uri='sip:b'}]"]);
        assert!(same[0].contains("one name, one target"), "{same:?}");
    }

    #[test]
    fn tables_in_a_list_come_from_the_environment_as_well() {
        let environment = [
            ("EYELINE__SIP__USER", "[{name='door1', password='${env:DOOR}'}]"),
            ("EYELINE__SIP__TLS__SERVER_CA", "Cargo.toml"),
            ("DOOR", "hunter2"),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let given = Given { files: vec!["/dev/null".into()], environment, ..Given::default() };
        let sip = load(&given).expect("a good configuration").config.sip;
        assert_eq!((sip.users[0].name.as_str(), sip.users[0].password.expose()), ("door1", "hunter2"));
        assert_eq!(sip.tls.server_ca, Some("Cargo.toml".into()));
    }

    #[test]
    fn no_problem_shows_a_secret() {
        for set in [
            "console.password=1234",
            "console.token=['1234']",
            "console.pasword='1234'",
            "console.password='${1234'",
            "sip.user='door1:1234'",
            "sip.user=['1234']",
            "sip.user=[{name='a', password=1234}]",
            "sip.user=[{name='a', pasword='1234'}]",
            "sip.account=[{name='a', username='b', registrar='sip:b:1234@c'}]",
            "sip.account=[{name='a', username='b', registrar='b:1234@c d'}]",
            "sip.peer=[{name='a', uri='sip:b', password='1234'}]",
        ] {
            let given =
                Given { files: vec!["/dev/null".into()], sets: vec![set.to_owned()], ..Given::default() };
            let text = load(&given).unwrap_err().to_string();
            assert!(!text.contains("1234"), "{text}");
        }
    }
}
