mod model;
mod promises;
mod rig;
mod scenarios;
mod shown;
mod stints;
mod told;
mod warm;
