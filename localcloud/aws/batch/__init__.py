"""AWS Batch, played in front of moto: jobs, attempts, retries and placement are ours, definitions and queues moto's."""
