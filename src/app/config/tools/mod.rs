//! What agents may do besides talking, and what makes them act: `[tool.NAME]`, `[http_tool.NAME]`, `[unlock.NAME]`,
//! `[[trigger]]` and `on_start` of an agent. Settings, reading, checking, printing; what the keys do is
//! `talk::tools`', `talk::trigger`'s and `engine::talk`'s.

pub mod check;
pub mod print;
pub mod read;
pub mod settings;

#[cfg(test)]
mod tests {
    use crate::app::config::{Given, load, print};

    fn given(toml: &str) -> (tempfile::TempDir, Given) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("eyeline.toml");
        std::fs::write(&path, format!("{TALKS}\n{toml}")).unwrap();
        (folder, Given { files: vec![path], ..Given::default() })
    }

    const TALKS: &str = r#"
        [stt.m]
        provider = "mock"
        [llm.m]
        provider = "mock"
        [tts.m]
        provider = "mock"
        [[route]]
        agent = "a"
        detect = ["objects"]
    "#;
    const AGENT: &str = "[agent.a]\nkind = \"pipeline\"\nstt = \"m\"\nllm = \"m\"\ntts = \"m\"\n";

    fn problems(toml: &str) -> String {
        load(&given(toml).1).map_or_else(|problems| problems.to_string(), |_| String::new())
    }

    #[test]
    fn what_is_printed_reads_back_but_for_secrets() {
        let toml = format!(
            r#"{AGENT}
            tools = ["look", "unlock:gate", "http:weather"]
            on_start = [{{ say = "Hello." }}, {{ trigger = "parcel" }}]
            [tool.transfer]
            allow = ["100"]
            needs = "speech"
            [http_tool.weather]
            description = "The weather"
            url = "https://w.example/{{city}}"
            schema = {{ type = "object", required = ["city"], properties = {{ city = {{ type = "string" }} }} }}
            [unlock.gate]
            via = "http"
            url = "http://10.0.0.2/open"
            present = "person"
            callers = ["gate", "10.0.0.9"]
            [[trigger]]
            name = "parcel"
            class = "person"
            tool = "unlock"
            arguments = {{ door = "gate" }}
            [[trigger]]
            name = "often"
            every_s = 30
            ask = "Still there?"
            "#
        );
        let (_folder, first) = given(&toml);
        let loaded = load(&first).unwrap_or_else(|problems| panic!("{problems}"));
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("printed.toml");
        std::fs::write(&path, print::print(&loaded.config)).unwrap();
        let again = load(&Given { files: vec![path], ..Given::default() });
        assert_eq!(again.unwrap_or_else(|problems| panic!("{problems}")).config, loaded.config);
    }

    #[test]
    fn doors_that_are_left_open_and_tools_that_do_not_exist_are_refused() {
        for (toml, why) in [
            ("[unlock.front]\ndigits = \"1\"", "anybody who talks to the agent could open it"),
            ("[unlock.front]\npin = \"4711\"", "say which keys open it"),
            ("[unlock.front]\nvia = \"http\"\npin = \"4711\"", "say which request opens it"),
            ("[unlock.front]\ndigits = \"1\"\npin = \"12\"", "4 to 16 digits"),
            ("[unlock.front]\ndigits = \"open\"\npin = \"4711\"", "0-9, *, #, A-D"),
            ("[http_tool.look]\ndescription = \"x\"\nurl = \"https://a.example\"", "a tool of its own"),
            ("[http_tool.x]\ndescription = \"x\"\nurl = \"https://{host}/\"", "the host is fixed"),
            ("[http_tool.x]\ndescription = \"x\"\nurl = \"https://a.example/{y}\"", "{y} is no argument"),
            (
                "[http_tool.x]\ndescription = \"x\"\nurl = \"https://a.example\"\nschema = { type = \"object\", oneOf = [] }",
                "not understood",
            ),
            ("[tool.tranfer]", "did you mean \"transfer\"?"),
            ("[tool.look]\nallow = [\"1\"]", "only dtmf, transfer, show, send_image"),
            ("[[trigger]]\nname = \"t\"\nevery_s = 5\nclass = \"person\"\nask = \"x\"", "one of class"),
            ("[[trigger]]\nname = \"t\"\nevery_s = 5", "one of ask and tool"),
            ("[[trigger]]\nname = \"t\"\nevery_s = 5\ntool = \"unlock\"", "there is no door"),
            ("[[trigger]]\nname = \"t\"\nevery_s = 5\nask = \"x\"\nagents = [\"mirror\"]", "does not talk"),
        ] {
            let said = problems(&format!("{AGENT}\n{toml}"));
            assert!(said.contains(why), "{toml}: {said}");
        }
        for (tools, why) in [
            ("tools = [\"unlock\"]", "there is no door"),
            ("tools = [\"unlock:safe\"]", "there is no [unlock.safe]"),
            ("tools = [\"http:x\"]", "there is no [http_tool.x]"),
            ("tools = [\"lok\"]", "did you mean \"look\"?"),
            ("on_start = [{ trigger = \"x\" }]", "there is no [[trigger]]"),
            ("on_start = [{ show = \"x\" }]", "there is no [picture.x]"),
            ("on_start = [{ say = \"x\", show = \"y\" }]", "one of say, show and trigger"),
        ] {
            let said = problems(&format!("{AGENT}{tools}"));
            assert!(said.contains(why), "{tools}: {said}");
        }
    }
}
