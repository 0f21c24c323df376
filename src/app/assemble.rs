//! From configuration to the settings of the floors below: one function per receiver, nothing decided here.

use std::net::IpAddr;
use std::sync::Arc;

use crate::app::config::settings::{
    self, Busy, Config, DEFAULT_RECORDING, MirrorAudio, OnFailure, RecordVideo, Style, Transform, Word,
};
use crate::app::config::source::{Kind, Source};
use crate::app::detectors::{Detectors, watches};
use crate::app::device;
use crate::app::signalling;
use crate::app::signalling::origin::Origins;
use crate::app::signalling::tls::{TlsSettings, TrunkTls};
use crate::app::talkers::{Talkers, of_sources};
use crate::base::time::Clock;
use crate::call::behaviour::mirror::Mirror;
use crate::call::behaviour::record::Record;
use crate::call::behaviour::talk::{Speaker, Talk as TalkBehaviour};
use crate::call::behaviour::{Behaviour, Room};
use crate::call::negotiate::{KeyOffer, MediaSettings, SrtpPolicy};
use crate::codec::h264::encoder::EncoderKind;
use crate::codec::h264::probe;
use crate::codec::vp8;
use crate::engine::canvas::Showing;
use crate::engine::plan::{
    Direction, Gating, Look, Picture, Place, RecordAudio, Recording, Timeouts, VideoCodec, VideoOut,
};
use crate::engine::sources::SourceSettings;
use crate::rtp::reach::Reach;
use crate::secure::dtls::Identity;
use crate::sip::digest::Credentials;
use crate::sip::{self, Strangers, Uri, digest};
use crate::source::device::{Device, Grabbed};
use crate::source::feed;
use crate::useragent::accounts::Account;
use crate::useragent::admission::Admission;
use crate::useragent::control::Agent;
use crate::useragent::dialling::Dialling;
use crate::useragent::peers::{Peer, Peers};
use crate::useragent::registrar;
use crate::useragent::routing::Route;
use crate::useragent::{self};
use crate::vision::censor::{self, CensorSettings};
use crate::vision::filters;
use crate::vision::mask::{self, Zone};
use crate::vision::overlay::{OverlaySettings, Position, Template, Watermark};
use crate::vision::paint::Color;

/// Written in User-Agent and Server.
pub fn product() -> String {
    format!("Eyeline/{}", env!("CARGO_PKG_VERSION"))
}

pub fn sockets(config: &Config, seed: u64) -> signalling::Settings {
    let listen = config.sip.listen.iter().map(|listen| (listen.transport, listen.address)).collect();
    signalling::Settings {
        listen,
        tls: tls(config),
        admission: admission(config),
        dns: config.sip.dns,
        seed,
        origins: Origins::new(config.sip.origins.clone()),
    }
}

pub fn tls(config: &Config) -> TlsSettings {
    let trunk = |peer: &settings::SipPeer| TrunkTls {
        host: peer.uri.as_ref().map(|uri| uri.host.clone()),
        sources: peer.source.clone(),
        certificate: peer.certificate.clone(),
        private_key: peer.private_key.clone(),
        ca: peer.ca.clone(),
        tls_name: peer.tls_name.clone(),
    };
    let tls = &config.sip.tls;
    TlsSettings {
        certificate: tls.certificate.clone(),
        private_key: tls.private_key.clone(),
        client_ca: tls.client_ca.clone(),
        server_ca: tls.server_ca.clone(),
        trunks: config.sip.peers.iter().map(trunk).collect(),
    }
}

pub fn user_agent(
    config: &Config,
    detectors: &Detectors,
    talkers: &Talkers,
) -> Result<useragent::Settings, String> {
    Ok(useragent::Settings {
        sip: sip::Settings {
            user_agent: product(),
            strangers: match config.sip.strangers {
                settings::Strangers::Drop => Strangers::Drop,
                settings::Strangers::Challenge => Strangers::Challenge,
                settings::Strangers::Reject => Strangers::Reject,
            },
            realm: realm(config).to_owned(),
            users: config.sip.users.iter().map(user).collect(),
            contact_user: config.appliance.name.clone(),
            advertise: config.sip.advertise,
            session_expires: config.sip.session_expires,
            min_se: config.sip.min_se,
            ..sip::Settings::default()
        },
        admission: admission(config),
        routes: config
            .routes
            .iter()
            .map(|found| route(config, detectors, talkers, found))
            .collect::<Result<_, _>>()?,
        media: media(config),
        name: config.appliance.name.clone(),
        advertise: config.sip.advertise,
        max_calls: config.sip.max_calls as usize,
        calls_per_second: config.sip.calls_per_second,
        busy: match config.sip.busy {
            Busy::Unavailable503 => 503,
            Busy::Busy486 => 486,
        },
        max_call: config.sip.max_call,
        ring_timeout: config.sip.ring_timeout,
        agents: agents(config, detectors, talkers)?,
        trunks: trunks(config),
        accounts: config.sip.accounts.iter().map(|found| account(config, found)).collect(),
        registrar: registrar(config),
        dial_max: config.sip.dial_max.unwrap_or(config.sip.max_call),
        dialling: dialling(config),
    })
}

/// Who is trusted, and who is known.
pub fn admission(config: &Config) -> Admission {
    Admission::new(config.sip.trusted.clone()).with_peers(peers(config))
}

fn peers(config: &Config) -> Peers {
    let peer = |peer: &settings::SipPeer| Peer {
        name: peer.name.clone(),
        source: peer.source.clone(),
        tls_name: peer.tls_name.clone(),
        networks: peer.networks.clone(),
        uri: peer.uri.clone(),
        credentials: (!peer.username.is_empty()).then(|| Credentials {
            username: peer.username.clone(),
            password: peer.password.expose().to_owned(),
            realms: peer.realm.iter().cloned().collect(),
        }),
        max_calls: peer.max_calls as usize,
        identity: peer.identity,
        ice: peer.ice,
        srtp: peer.srtp.map(srtp),
        key_offer: peer.srtp_offer.map(key_offer),
    };
    Peers::new(config.sip.peers.iter().map(peer).collect())
}

/// What `sip.dial_allow` and the tables around it permit.
pub fn dialling(config: &Config) -> Dialling {
    let sip = &config.sip;
    let domain = |account: &settings::Account| match account.registrar.port {
        Some(port) => format!("{}:{port}", account.registrar.host),
        None => account.registrar.host.clone(),
    };
    let addresses = sip.listen.iter().map(|listen| listen.address.ip()).chain(sip.advertise);
    let addresses = addresses.filter(|address| !address.is_unspecified()).map(|address| match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    });
    let names = [&config.appliance.name].into_iter().chain(&sip.realm).map(|name| name.to_ascii_lowercase());
    Dialling::new(sip.dial_allow.clone())
        .per_hour(sip.dial_per_hour)
        .domains(sip.accounts.iter().map(domain).collect())
        .names(
            sip.users.iter().map(|user| user.name.clone()).collect(),
            sip.peers.iter().map(|peer| peer.name.clone()).collect(),
            names.chain(addresses).collect(),
        )
}

fn realm(config: &Config) -> &str {
    config.sip.realm.as_deref().unwrap_or(&config.appliance.name)
}

fn user(user: &settings::User) -> digest::server::User {
    digest::server::User { name: user.name.clone(), password: user.password.expose().to_owned() }
}

fn registrar(config: &Config) -> registrar::Settings {
    let user = |user: &settings::User| registrar::User {
        name: user.name.clone(),
        display_name: user.display_name.clone(),
    };
    let mut domains = vec![realm(config).to_owned(), config.appliance.name.clone()];
    domains.extend(config.sip.advertise.map(|address| address.to_string()));
    domains.dedup();
    registrar::Settings {
        users: config.sip.users.iter().map(user).collect(),
        domains,
        listen: config.sip.listen.iter().map(|listen| listen.address).collect(),
        clock: None,
    }
}

fn account(config: &Config, account: &settings::Account) -> Account {
    Account {
        name: account.name.clone(),
        registrar: account.registrar.clone(),
        username: account.username.clone(),
        password: account.password.expose().to_owned(),
        realm: account.realm.clone(),
        display_name: account.display_name.clone(),
        expires: account.expires,
        outbound_proxy: account.outbound_proxy.clone(),
        instance: device::instance(&config.appliance.name, &account.name),
        srtp: account.srtp.map(srtp),
        key_offer: account.srtp_offer.map(key_offer),
    }
}

pub fn media(config: &Config) -> MediaSettings {
    MediaSettings {
        audio_codecs: config.media.audio_codecs.clone(),
        audio_direction: Direction::SendReceive,
        video: !config.media.video_codecs.is_empty(),
        video_codecs: config.media.video_codecs.clone(),
        vp8_encoder: config.media.video_codecs.contains(&VideoCodec::Vp8) && vp8::proven().is_ok(),
        video_direction: Direction::SendReceive,
        max_size: config.video.max_size,
        fps: config.video.fps,
        max_kbps: config.video.bitrate_kbps,
        slides: false,
        srtp: srtp(config.media.srtp),
        key_offer: key_offer(config.media.srtp_offer),
        dtls_fingerprint: None,
        ice: false,
        browser: false,
    }
}

/// The same for calls over an account.
pub fn media_over(config: &Config, account: Option<&settings::Account>) -> MediaSettings {
    let all = media(config);
    MediaSettings {
        srtp: account.and_then(|account| account.srtp).map_or(all.srtp, srtp),
        key_offer: account.and_then(|account| account.srtp_offer).map_or(all.key_offer, key_offer),
        ..all
    }
}

fn srtp(policy: settings::SrtpPolicy) -> SrtpPolicy {
    match policy {
        settings::SrtpPolicy::Off => SrtpPolicy::Off,
        settings::SrtpPolicy::Optional => SrtpPolicy::Optional,
        settings::SrtpPolicy::Required => SrtpPolicy::Required,
    }
}

fn key_offer(offer: settings::SrtpOffer) -> KeyOffer {
    match offer {
        settings::SrtpOffer::Sdes => KeyOffer::Sdes,
        settings::SrtpOffer::Dtls => KeyOffer::Dtls,
    }
}

/// Where the extensions of accounts and peers are called.
fn trunks(config: &Config) -> Vec<(String, Uri)> {
    let accounts =
        config.sip.accounts.iter().map(|account| (account.name.clone(), account.registrar.clone()));
    let peers = config.sip.peers.iter().filter_map(|peer| Some((peer.name.clone(), peer.uri.clone()?)));
    accounts.chain(peers).collect()
}

/// Every agent with what the first route to it gives it, so that calls can be made with it. One without a route is
/// treated as the last route says, which takes what no other did.
fn agents(config: &Config, detectors: &Detectors, talkers: &Talkers) -> Result<Vec<Agent>, String> {
    let of_route = |name: &String| {
        let own = config.routes.iter().find(|route| route.agent == *name).or(config.routes.last())?;
        Some(settings::Route { agent: name.clone(), ..own.clone() })
    };
    let agent = |found: settings::Route| {
        let route = route(config, detectors, talkers, &found)?;
        Ok(Agent {
            name: route.agent,
            behaviour: route.behaviour,
            room: route.room,
            video: route.video,
            display_name: route.display_name,
        })
    };
    config.agents.keys().filter_map(of_route).map(agent).collect()
}

fn route(
    config: &Config,
    detectors: &Detectors,
    talkers: &Talkers,
    route: &settings::Route,
) -> Result<Route, String> {
    let agent = config.agents.get(&route.agent).cloned().unwrap_or_default();
    let sight = route.sight.unwrap_or(agent.sight());
    let talks = matches!(
        agent,
        settings::Agent::Pipeline(_) | settings::Agent::Realtime(_) | settings::Agent::Avatar(_)
    );
    let watch = if talks { None } else { talkers.watch(config, sight) };
    let behaviour = match agent {
        settings::Agent::Mirror { audio, greeting, .. } => Behaviour::Mirror(Mirror {
            greeting: if audio == MirrorAudio::Greeting { greeting } else { String::new() },
            echo: audio != MirrorAudio::Silence,
        }),
        settings::Agent::Pipeline(settings)
        | settings::Agent::Realtime(settings)
        | settings::Agent::Avatar(settings) => {
            let speaker = |language: &str| {
                let agent = talkers
                    .agent_named(&route.agent, sight, language)
                    .ok_or_else(|| format!("agent {:?} is not there", route.agent))?;
                let spoken = settings.speaking(language);
                let texts = [spoken.display_name, route.agent.clone()];
                let text = texts.into_iter().find(|text| !text.is_empty()).unwrap_or_default();
                Ok::<_, String>(Speaker { agent: agent.clone(), text, notice: spoken.disclosure })
            };
            // A route that says what is spoken is not overruled by a telephone.
            let others: Vec<&str> =
                if route.language.is_empty() { settings.offered_languages().collect() } else { Vec::new() };
            let other = |language: &&str| Ok::<_, String>(((*language).to_owned(), speaker(language)?));
            Behaviour::Talk(TalkBehaviour {
                speaker: speaker(&route.language)?,
                languages: others.iter().map(other).collect::<Result<_, _>>()?,
            })
        }
        settings::Agent::Record { .. } => {
            Behaviour::Record(Record { greeting: String::new(), text: "this call is recorded".to_owned() })
        }
    };
    let any = |glob: &String| (glob != "*").then(|| glob.clone());
    Ok(Route {
        to: any(&route.to),
        from: any(&route.from),
        sources: route.source.clone(),
        headers: route.headers.iter().map(|(name, glob)| (name.clone(), glob.clone())).collect(),
        agent: route.agent.clone(),
        behaviour,
        room: Room { watch, ..room(config, detectors, route)? },
        video: route.video,
        display_name: route.display_name.clone(),
        ring: route.ring,
        early_media: route.early_media,
        slides: route.slides,
    })
}

fn device(grabbed: Grabbed, source: &Source) -> feed::Place {
    feed::Place::Device(Device { grabbed, name: source.device().to_owned(), program: "ffmpeg".into() })
}

/// Where pictures come from besides callers.
pub fn sources(config: &Config, clock: Clock, detectors: &Detectors) -> Result<Vec<SourceSettings>, String> {
    let (still, detail) = of_sources(config, clock);
    let source = |(name, source): (&String, &Source)| {
        let hides = source.censor && config.censor.hides();
        let gate = || Ok::<_, String>(Gating { censor: censor(config)?, detectors: detectors.for_gate() });
        Ok(SourceSettings {
            name: name.clone(),
            description: source.description.clone(),
            place: match source.kind {
                Kind::File => feed::Place::File(source.path.clone()),
                Kind::Rtsp => feed::Place::Stream(source.url.expose().to_owned()),
                Kind::Camera => device(Grabbed::Camera, source),
                Kind::Screen => device(Grabbed::Screen, source),
                Kind::Test => feed::Place::Test,
            },
            gate: hides.then(gate).transpose()?,
            still,
            detail,
            max: config.video.max_size,
        })
    };
    config.sources.iter().map(source).collect()
}

fn room(config: &Config, detectors: &Detectors, route: &settings::Route) -> Result<Room, String> {
    let gate = if route.censor && config.censor.hides() {
        Some(Gating { censor: censor(config)?, detectors: detectors.for_gate() })
    } else {
        None
    };
    // A detector that already looks at every picture for the gate need not look again for its boxes.
    let gated = gate.as_ref().map_or(Vec::new(), |gate| gate.detectors.clone());
    // Unless somebody waits for what it finds: the gate tells nobody.
    let needed = |name: &&String| !gated.contains(name) || watches(config, &route.agent);
    let observers = route.detect.iter().filter(needed).cloned().collect();
    let recording = route
        .record
        .as_deref()
        .and_then(|name| config.recording.get(name).or_else(|| config.recording.get(DEFAULT_RECORDING)));
    Ok(Room {
        reach: Reach::default(),
        watch: None,
        gate,
        look: look(config, observers)?,
        video_out: VideoOut {
            picture: Picture::Mirror,
            max: config.video.max_size,
            fps: config.video.fps,
            kbps: config.video.bitrate_kbps,
            encoder: config.video.encoder.word().to_owned(),
            showing: Showing {
                captions: config.overlay.captions,
                notice: String::new(),
                trusts_images: route.trust_images,
            },
        },
        recording: recording.map(|recording| recording_of(config, recording)),
        timeouts: timeouts(config),
    })
}

pub fn timeouts(config: &Config) -> Timeouts {
    Timeouts {
        start: config.media.rtp_start_timeout,
        flow: config.media.rtp_timeout,
        hold: config.media.hold_timeout,
    }
}

fn recording_of(config: &Config, recording: &settings::Recording) -> Recording {
    Recording {
        place: Place::Dated(config.recordings_dir(recording)),
        audio: match recording.audio {
            settings::RecordAudio::Stereo => RecordAudio::Stereo,
            settings::RecordAudio::Mixed => RecordAudio::Mixed,
            settings::RecordAudio::None => RecordAudio::None,
        },
        video: recording.video == RecordVideo::Caller,
        encoder: recording.encoder.word().to_owned(),
        kbps: config.video.bitrate_kbps,
        min_free_bytes: recording.min_free_bytes(),
    }
}

fn censor(config: &Config) -> Result<CensorSettings, String> {
    let zone = |points: &settings::Zone| {
        let points = points.iter().map(|[x, y]| (*x, *y)).collect();
        Zone::new(points).ok_or("censor.zones: a zone needs three corners or more, as shares of the picture")
    };
    Ok(CensorSettings {
        targets: config.censor.targets.clone(),
        style: match config.censor.style {
            Style::Pixelate => mask::Style::Pixelate,
            Style::Blur => mask::Style::Blur,
            Style::Black => mask::Style::Black,
        },
        margin: config.censor.margin,
        hold_ms: u64::try_from(config.censor.hold.as_millis()).unwrap_or(u64::MAX),
        zones: config.censor.zones.iter().map(zone).collect::<Result<_, _>>()?,
        on_failure: match config.censor.on_failure {
            OnFailure::Slate => censor::OnFailure::Slate,
            OnFailure::BlurFrame => censor::OnFailure::BlurFrame,
        },
        heads: true,
    })
}

/// What is written on pictures, in the overlay's place, size and colour; an empty text: nothing.
pub fn watermark(overlay: &settings::Overlay, text: &str) -> Result<Option<Watermark>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let template = Template::parse(text).map_err(|error| format!("overlay.watermark: {error}"))?;
    let position =
        Position::parse(overlay.watermark_position.word()).ok_or("overlay.watermark_position is unknown")?;
    let [red, green, blue] = overlay.watermark_color;
    let color = Color::rgb(red, green, blue);
    Ok(Some(Watermark { template, position, size: overlay.watermark_size, color }))
}

pub fn transforms(chosen: &[Transform]) -> Result<Vec<filters::Transform>, String> {
    let transform = |transform: &Transform| {
        filters::Transform::parse(transform.word()).ok_or("filters.transforms: unknown name".to_owned())
    };
    chosen.iter().map(transform).collect()
}

fn look(config: &Config, observers: Vec<String>) -> Result<Look, String> {
    let watermark = watermark(&config.overlay, &config.overlay.watermark)?;
    Ok(Look {
        observers,
        overlay: OverlaySettings { boxes: config.overlay.boxes, watermark },
        transforms: transforms(&config.filters.transforms)?,
        resize: config.filters.resize,
    })
}

/// The certificate of this process for DTLS-SRTP. Without one, streams that need it are refused and calls go on.
pub fn dtls() -> Option<Arc<Identity>> {
    Identity::generate().map_err(|why| tracing::error!("{why}")).ok().map(Arc::new)
}

/// The encoder a setting means, by proof; remembered by the prober.
pub fn choose_encoder(setting: &str, bounded: bool) -> Result<EncoderKind, String> {
    let chosen = if bounded { probe::choose_bounded(setting) } else { probe::choose(setting) };
    chosen.map_err(|error| error.to_string())
}

/// The RTCP name of this box.
pub fn cname(config: &Config, address: Option<IpAddr>) -> String {
    match address {
        Some(address) => format!("{}@{address}", config.appliance.name),
        None => config.appliance.name.clone(),
    }
}
