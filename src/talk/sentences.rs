#[derive(Debug, Default)]
pub struct Sentences(String);
impl Sentences {
    pub fn push(&mut self, text: &str) -> Vec<String> {
        self.0.push_str(text);
        let mut out = Vec::new();
        while let Some(at) = self.0.find(['.', '!', '?']) {
            let rest = self.0.split_off(at + 1);
            let s = std::mem::replace(&mut self.0, rest);
            if !s.trim().is_empty() {
                out.push(s.trim().to_owned());
            }
        }
        out
    }
    pub fn finish(&mut self) -> Option<String> {
        let s = std::mem::take(&mut self.0);
        (!s.trim().is_empty()).then(|| s.trim().to_owned())
    }
}
