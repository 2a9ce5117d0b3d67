//! The decoder against the product: on values, on stores that lose power at any moment, and on damage.

mod codec;
mod damage;
mod life;
