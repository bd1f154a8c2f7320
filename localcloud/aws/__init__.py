"""AWS itself, as one process plays it: EC2, EBS, Batch, metadata, prices, sign-in, on moto behind our guards."""
