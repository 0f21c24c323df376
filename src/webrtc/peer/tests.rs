//! Two peers against each other in virtual time.
