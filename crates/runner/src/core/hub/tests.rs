mod model;
mod promises;
mod rig;
mod scenarios;
mod shown;
mod told;
mod warm;
