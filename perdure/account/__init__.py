"""What an AWS account looks like from outside: looks at Batch, EC2, IAM and quotas for `perdure doctor --queue` and
`perdure assess`. Runs on the desk of whoever owns the account; needs boto3, and no server of ours."""
