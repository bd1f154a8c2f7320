"""One module for each subject. A check is a function of the picture; it asks nothing and changes nothing."""
