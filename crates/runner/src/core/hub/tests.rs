mod rig;
mod scenarios;
