//! Recorded and hand-made inputs with the outcome expected of them.

mod sip_torture;
