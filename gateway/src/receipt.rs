//! The receipt: what the `Location` of a 202 carries, so that any gateway can tell what became of the upload.
