//! The schema's migrations are built into the programs, so a new one is a reason to build again.

fn main() {
    println!("cargo::rerun-if-changed=../migrations");
}
