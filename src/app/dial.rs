//! Driver. `eyeline call`: one real A/V call as a client, with a report and an exit code that can be scripted.
//!
//! The same user agent and engine as the appliance, with an ephemeral SIP port, free RTP ports and an open gate: what
//! comes back is looked at by nobody and only saved. It always ends by itself.

#![expect(
    clippy::disallowed_methods,
    reason = "the command takes its clock at the start and paces its steps"
)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, anyhow, bail};
use ipnet::IpNet;

use crate::app::assemble;
use crate::app::cli::{CallArguments, FAILED};
use crate::app::config::settings::{Account, Config, Word as _};
use crate::app::report::{CallReport, Story};
use crate::app::serve::{media_runtime, seed};
use crate::app::signalling::{self, Order, Signalling, Watch};
use crate::app::target::{self, Target};
use crate::base::queue::{self, Fifo, Receiver, Sender};
use crate::base::stop::Scope;
use crate::base::time::Clock;
use crate::call::Tell;
use crate::call::behaviour::dialled::Dialled;
use crate::call::behaviour::{Behaviour, Room};
use crate::call::end::EndReason;
use crate::call::negotiate::MediaSettings;
use crate::engine::canvas::Showing;
use crate::engine::pictures::Studio;
use crate::engine::plan::{
    CallId, Label, Look, Picture, Place, RecordAudio, Recording, Then, VideoCodec, VideoOut,
};
use crate::engine::{self, Catalogue, Engines};
use crate::media::codec::Detector;
use crate::media::pool::FramePool;
use crate::rtp::reach::Reach;
use crate::sip::digest::Credentials;
use crate::sip::{Hop, NameAddr, Transport, Uri};
use crate::source::clip::{Clip, ClipSettings};
use crate::useragent::admission::Admission;
use crate::useragent::dialling::Dialling;
use crate::useragent::{self, Dial, Do, UserAgent, Way};
use crate::vision::observer::ObserverSettings;
use crate::vision::overlay::OverlaySettings;
use crate::vision::schedule::Schedule;

/// RTP ports of a client: any that is free.
const RTP_PORTS: (u16, u16) = (16_384, 60_999);
/// Hanging up fails at last after Timer F; files are closed after that.
const PATIENCE: Duration = Duration::from_secs(45);
/// A peer that answers nothing at all is not waited for longer than this after the ringing time.
const AFTER_RINGING: Duration = Duration::from_secs(2);
/// The sockets close in it.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// A hold lasts this long.
const HOLD: Duration = Duration::from_secs(2);
/// Digits follow the answer after this pause: some peers miss the first packets.
const BEFORE_DIGITS: Duration = Duration::from_millis(500);
const TONE_HZ: u32 = 440;

/// Makes one call and reports.
pub fn run(arguments: &CallArguments, config: &Config) -> ExitCode {
    match call(arguments, config) {
        Ok(report) => {
            let written = if arguments.json { report.json() } else { report.text() };
            use std::io::Write as _;
            let shown = std::io::stdout().write_all(written.as_bytes());
            if report.ok() && shown.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
        }
        Err(error) => {
            eprintln!("eyeline: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn call(arguments: &CallArguments, config: &Config) -> anyhow::Result<CallReport> {
    if let Some(name) = arguments.account.as_deref().filter(|_| account(arguments, config).is_none()) {
        bail!("there is no account {name}: write [[sip.account]] name = \"{name}\" into the configuration");
    }
    let uri = target::uri(&arguments.uri)?;
    let received = arguments.out.as_deref().map(prepare_folder).transpose()?;
    let behaviour = behaviour(arguments)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start")?;
    let media = media_runtime()?;
    let setting = config.video.encoder.word();
    if !arguments.audio_only {
        assemble::choose_encoder(setting, false).map_err(|why| anyhow!(why))?;
    }
    let handle = runtime.handle().clone();
    let story = runtime.block_on(async {
        let seed_of_choice = u64::from_le_bytes(seed()?.first_chunk().copied().unwrap_or_default());
        let target = target::find(uri, arguments.bind, config.sip.dns, seed_of_choice).await?;
        let sockets = sockets(arguments, config, &target);
        let mut sip = Signalling::bind(sockets, Scope::new("sip", handle.clone())).await?;
        let dtls = assemble::dtls();
        let mut settings = agent_settings(config, &target);
        let fingerprint = dtls.as_ref().map(|identity| identity.fingerprint());
        settings.media.dtls_fingerprint.clone_from(&fingerprint);
        let agent = UserAgent::new(settings, seed()?);
        let clock = Clock::new(Instant::now(), SystemTime::now());
        let settings = engine::Settings {
            rtp_ports: RTP_PORTS,
            seed: seed()?,
            clock,
            cname: assemble::cname(config, Some(target.local)),
            catalogue: Arc::new(NoDetectors),
            dtls,
            choose_encoder: assemble::choose_encoder,
            studio: Studio::default(),
        };
        let (engines, events) = Engines::new(settings, media, handle);
        let hops = target.places.iter().filter_map(|place| sip.hop(*place, target.name.clone())).collect();
        let mut dial = dial(arguments, config, &target, hops, behaviour, received.clone())?;
        dial.media.dtls_fingerprint = fingerprint;
        let (orders, given) = queue::queue(Fifo { depth: 16 });
        let (happened, heard) = queue::queue(Fifo { depth: 64 });
        let watch = Box::new(Watching { happened });
        let control = signalling::run(sip, agent, engines, events, given, watch);
        let conversation = converse(arguments, dial, orders, heard);
        let mut control = std::pin::pin!(control);
        let story = tokio::select! {
            story = conversation => story,
            _ = &mut control => bail!("the call's control loop ended by itself"),
        };
        // Nobody answered at all: what is left is only waiting for the last repeats.
        if story.ended.is_some() {
            let _ = tokio::time::timeout(CLOSE_LIMIT, control).await;
        }
        anyhow::Ok(story)
    })?;
    runtime.shutdown_timeout(Duration::from_millis(100));
    let report = CallReport::new(&arguments.uri, !arguments.audio_only, story);
    if let Some(folder) = &arguments.out {
        let path = folder.join("report.json");
        std::fs::write(&path, report.json()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(report)
}

fn prepare_folder(folder: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let received = folder.join("received.mp4");
    match std::fs::remove_file(&received) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot replace {}", received.display()))
        }
        Ok(()) | Err(_) => Ok(received),
    }
}

/// What is sent; a file is opened now, so that a wrong name costs no call.
fn behaviour(arguments: &CallArguments) -> anyhow::Result<Behaviour> {
    let mut sound = Then::Tone(TONE_HZ);
    let picture = match &arguments.video {
        Some(path) => {
            let clip = open(path)?;
            if !clip.has_video() {
                bail!("{} has no picture", path.display());
            }
            if clip.has_audio() {
                sound = Then::Clip(path.clone());
            }
            Picture::Clip { path: path.clone(), size: arguments.size }
        }
        None => Picture::TestCard { source: 1, size: arguments.size },
    };
    if let Some(path) = &arguments.audio {
        if !open(path)?.has_audio() {
            bail!("{} has no sound", path.display());
        }
        sound = Then::Clip(path.clone());
    }
    Ok(Behaviour::Dialled(Dialled { picture, sound }))
}

fn open(path: &Path) -> anyhow::Result<Clip> {
    let max = crate::codec::decoder::Decoder::MAX;
    let settings = ClipSettings { path: path.to_owned(), max, rate: 8000, repeat: false };
    let mut clip = Clip::open(settings)?;
    clip.next(&FramePool::new(2))?;
    Ok(clip)
}

/// A datagram and a stream socket, and TLS as the configuration and `--ca` say, where it is needed.
fn sockets(arguments: &CallArguments, config: &Config, target: &Target) -> signalling::Settings {
    let any_port = SocketAddr::new(target.local, 0);
    let mut sockets = signalling::Settings {
        listen: vec![(Transport::Udp, any_port), (Transport::Tcp, any_port)],
        dns: config.sip.dns,
        ..signalling::Settings::default()
    };
    if target.is_secure() {
        sockets.tls = assemble::tls(config);
        if let Some(ca) = &arguments.ca {
            sockets.tls.server_ca = Some(ca.clone());
        }
    }
    sockets
}

fn agent_settings(config: &Config, target: &Target) -> useragent::Settings {
    useragent::Settings {
        sip: crate::sip::Settings {
            user_agent: assemble::product(),
            contact_user: config.appliance.name.clone(),
            ..crate::sip::Settings::default()
        },
        admission: Admission::new(target.places.iter().map(|place| IpNet::from(place.remote.ip())).collect()),
        // Nobody can call a caller.
        routes: Vec::new(),
        media: assemble::media(config),
        name: config.appliance.name.clone(),
        advertise: None,
        max_calls: 1,
        calls_per_second: 0,
        busy: 486,
        max_call: Duration::from_secs(86_400),
        ring_timeout: config.sip.ring_timeout,
        agents: Vec::new(),
        trunks: Vec::new(),
        accounts: Vec::new(),
        registrar: useragent::registrar::Settings::default(),
        dial_max: Duration::from_secs(86_400),
        // The person at the command line named the first target; nothing may lead elsewhere.
        dialling: Dialling::default(),
    }
}

fn dial(
    arguments: &CallArguments,
    config: &Config,
    target: &Target,
    hops: Vec<Hop>,
    behaviour: Behaviour,
    received: Option<PathBuf>,
) -> anyhow::Result<Dial> {
    let local = hops.first().context("none of our sockets reaches it: check --bind")?.local;
    let from = Uri::sip(&config.appliance.name, &local.ip().to_string(), Some(local.port()));
    let audio_codecs = match arguments.codec {
        Some(codec) => vec![codec],
        None => config.media.audio_codecs.clone(),
    };
    let usual = assemble::media_over(config, account(arguments, config));
    let video_codecs = arguments.video_codec.map_or(usual.video_codecs.clone(), |codec| vec![codec]);
    if video_codecs == [VideoCodec::Vp8] {
        crate::codec::vp8::proven().map_err(|why| anyhow!("VP8 cannot be sent: {why}"))?;
    }
    Ok(Dial {
        to: target.uri.clone(),
        from: own_address(arguments, config, target).unwrap_or(NameAddr::new(from)),
        hops,
        behaviour,
        room: room(arguments, config, received),
        media: MediaSettings {
            audio_codecs,
            video: !arguments.audio_only,
            vp8_encoder: usual.vp8_encoder || video_codecs == [VideoCodec::Vp8],
            video_codecs,
            max_size: arguments.size,
            fps: arguments.fps,
            max_kbps: arguments.kbps,
            ..usual
        },
        ring_timeout: arguments.ring_timeout.unwrap_or(config.sip.ring_timeout),
        headers: Vec::new(),
        label: Label::default(),
        way: Way { credentials: credentials(arguments, config), ..Way::default() },
    })
}

/// Who we say we are: the account, or the user of the password at the domain dialled.
fn own_address(arguments: &CallArguments, config: &Config, target: &Target) -> Option<NameAddr> {
    if let Some(account) = account(arguments, config) {
        let registrar = &account.registrar;
        let mut own = NameAddr::new(Uri::sip(&account.username, &registrar.host, registrar.port));
        own.display = (!account.display_name.is_empty()).then(|| account.display_name.clone());
        return Some(own);
    }
    let user = arguments.user.as_deref()?;
    Some(NameAddr::new(Uri::sip(user, &target.uri.host, target.uri.port)))
}

fn account<'a>(arguments: &CallArguments, config: &'a Config) -> Option<&'a Account> {
    let name = arguments.account.as_deref()?;
    config.sip.accounts.iter().find(|account| account.name == name)
}

fn credentials(arguments: &CallArguments, config: &Config) -> Option<Credentials> {
    if let Some(account) = account(arguments, config) {
        return Some(Credentials {
            username: account.username.clone(),
            password: account.password.expose().to_owned(),
            realms: account.realm.clone().into_iter().collect(),
        });
    }
    Some(Credentials {
        username: arguments.user.clone()?,
        password: arguments.password.as_ref()?.expose().to_owned(),
        // A person at the command line named the peer: whoever asks first is it.
        realms: Vec::new(),
    })
}

fn room(arguments: &CallArguments, config: &Config, received: Option<PathBuf>) -> Room {
    Room {
        reach: Reach::default(),
        gate: None,
        watch: None,
        look: Look {
            observers: Vec::new(),
            overlay: OverlaySettings { boxes: false, watermark: None },
            transforms: Vec::new(),
            resize: None,
        },
        video_out: VideoOut {
            picture: Picture::Mirror,
            max: arguments.size,
            fps: arguments.fps,
            kbps: arguments.kbps,
            encoder: config.video.encoder.word().to_owned(),
            showing: Showing::default(),
        },
        recording: received.map(|path| Recording {
            place: Place::Exact(path),
            audio: RecordAudio::Stereo,
            video: true,
            encoder: config.video.encoder.word().to_owned(),
            kbps: arguments.kbps,
            min_free_bytes: 0,
        }),
        timeouts: assemble::timeouts(config),
    }
}

/// What of the call this command wants to know.
enum Happened {
    Told(Instant, CallId, Tell),
    Ended(Box<crate::call::Ended>),
}

struct Watching {
    happened: Sender<Happened, Fifo>,
}

impl Watch for Watching {
    fn happened(&mut self, now: Instant, what: &Do) {
        match what {
            Do::Tell { call, tell, .. } => {
                self.happened.offer(Happened::Told(now, *call, tell.clone()));
            }
            Do::Ended { ended, .. } => {
                self.happened.offer(Happened::Ended(ended.clone()));
            }
            Do::Send { .. }
            | Do::Connect { .. }
            | Do::Close(_)
            | Do::Resolve { .. }
            | Do::Guessed { .. }
            | Do::Engine(_)
            | Do::Registration { .. } => {}
        }
    }

    fn turned(&mut self, _now: Instant, _agent: &UserAgent, _engines: &Engines) {}

    fn close(self: Box<Self>, _limit: Duration) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async {})
    }
}

/// Dials, waits, presses keys, holds, hangs up. Ends with the call, or when nothing more can come of it.
async fn converse(
    arguments: &CallArguments,
    dial: Dial,
    orders: Sender<Order, Fifo>,
    heard: Receiver<Happened, Fifo>,
) -> Story {
    let mut story = Story::new(Instant::now());
    let mut steps = Steps::default();
    let mut give_up_at = story.started + dial.ring_timeout + AFTER_RINGING;
    orders.offer(Order::Dial(Box::new(dial)));
    loop {
        let next = steps.next_at().map_or(give_up_at, |at| at.min(give_up_at));
        tokio::select! {
            what = heard.recv() => match what {
                Some(Happened::Told(now, _, Tell::Ringing)) => story.ringing = Some(now),
                Some(Happened::Told(now, _, Tell::Early { .. })) => story.early = Some(now),
                Some(Happened::Told(now, call, Tell::Answered { .. })) => {
                    story.answered = Some(now);
                    give_up_at = now + arguments.duration + PATIENCE;
                    steps = Steps::of(now, call, arguments);
                }
                Some(Happened::Told(now, _, Tell::Updated { streams })) => story.updates.push((now, *streams)),
                Some(Happened::Told(_, _, Tell::Digit(digit))) => story.digits.push(digit),
                Some(Happened::Told(_, _, Tell::Moment(_))) => {}
                Some(Happened::Ended(ended)) => {
                    story.ended = Some(ended);
                    break;
                }
                None => break,
            },
            () = tokio::time::sleep_until(next.into()) => {
                let now = Instant::now();
                if now >= give_up_at {
                    break;
                }
                for order in steps.due(now) {
                    orders.offer(order);
                }
            }
            _ = tokio::signal::ctrl_c() => {
                orders.offer(Order::HangUpAll(EndReason::HungUp));
            }
        }
    }
    orders.offer(Order::Finish);
    story
}

/// What is done after the answer, and when.
#[derive(Default)]
struct Steps(Vec<(Instant, Order)>);

impl Steps {
    fn of(answered: Instant, call: CallId, arguments: &CallArguments) -> Self {
        let hang_up = Order::HangUp { call, reason: EndReason::HungUp };
        let mut steps = vec![(answered + arguments.duration, hang_up)];
        if let Some(digits) = &arguments.dtmf {
            steps.push((answered + BEFORE_DIGITS, Order::SendDigits { call, digits: digits.clone() }));
        }
        if let Some(after) = arguments.hold_after {
            steps.push((answered + after, Order::Hold { call }));
            steps.push((answered + after + HOLD, Order::Resume { call }));
        }
        steps.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        Steps(steps)
    }

    fn next_at(&self) -> Option<Instant> {
        self.0.last().map(|(at, _)| *at)
    }

    fn due(&mut self, now: Instant) -> Vec<Order> {
        let mut due = Vec::new();
        while self.next_at().is_some_and(|at| at <= now) {
            due.extend(self.0.pop().map(|(_, order)| order));
        }
        due
    }
}

/// A client looks at nothing.
struct NoDetectors;

impl Catalogue for NoDetectors {
    fn gate(&self, name: &str) -> Result<(Box<dyn Detector>, Schedule), String> {
        Err(format!("a client has no detector {name}"))
    }

    fn observer(&self, name: &str) -> Result<(Box<dyn Detector>, ObserverSettings), String> {
        Err(format!("a client has no detector {name}"))
    }
}
