//! A new migration is compiled in without a change of any source file.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
