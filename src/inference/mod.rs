//! Floor 2: neural networks on pictures and sound. Manifest, pre-processing, decode families, the ONNX Runtime session.
//!
//! ```text
//! manifest ─ store ─▶ ModelSpec ─▶ session::Network: picture ─▶ tensor ─▶ ONNX Runtime ─▶ family::decode ─▶ Found
//! ```
//! Synchronous computation on what it is given. Processes, deadlines and sharing between calls belong to `worker/`.

pub mod family;
pub mod hearing;
pub mod manifest;
pub mod mel;
pub mod onnx;
pub mod session;
pub mod store;
pub mod tensor;
