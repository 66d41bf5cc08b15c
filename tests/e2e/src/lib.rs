//! belayd and its containers as a whole: nothing here but the tests beside it.
