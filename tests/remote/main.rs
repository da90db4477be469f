#[path = "../process/mod.rs"]
mod process;
fn main() {
    process::main(&[])
}
