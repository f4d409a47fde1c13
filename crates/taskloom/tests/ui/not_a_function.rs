use taskloom::task;

#[task]
pub struct Fetch {
    url: String,
}

#[task]
mod tasks {}

fn main() {}
