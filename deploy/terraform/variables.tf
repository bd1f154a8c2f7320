variable "vpc" {
  type        = string
  description = "The VPC of your compute environments."
}

variable "subnet" {
  type        = string
  description = "Where the server is. It must reach apt sources and image registries, by NAT or a public address."
}

variable "administrators_cidr" {
  type        = string
  description = "Addresses that may open the console and the API, such as your office's."
}

variable "source_archive" {
  type        = string
  description = "The sources of a release of Perdure, perdure-VERSION.tar.gz, in S3: s3://BUCKET/perdure.tar.gz"
}

variable "source_bucket" {
  type        = string
  description = "The bucket in that address; the server may read there."
}

variable "source_sha256" {
  type        = string
  description = "SHA-256 of that file. The server does not start from anything else."
}

variable "instance_type" {
  type    = string
  default = "m6i.large"
}

variable "data_gib" {
  type    = number
  default = 50
}

variable "job_queues" {
  type        = list(string)
  default     = []
  description = "ARNs of the Batch job queues that Perdure protects: jobs of theirs that no agent has seen are recorded too. Empty for all; of these, jobs are recorded once an agent has told of another one."
  validation {
    condition     = alltrue([for one in var.job_queues : can(regex("^arn:[\\w-]+:batch:[\\w-]+:\\d{12}:job-queue/[\\w-]+$", one))])
    error_message = "They are ARNs of job queues."
  }
}

variable "alarm_address" {
  type        = string
  default     = ""
  description = "An e-mail address for alarms; empty for none."
}

variable "endpoints" {
  type        = string
  default     = "no"
  description = "VPC endpoints to make: no, s3 (free of charge), or all: also EC2, Batch, SQS, CloudWatch Logs."
  validation {
    condition     = contains(["no", "s3", "all"], var.endpoints)
    error_message = "It is no, s3 or all."
  }
}

variable "route_tables" {
  type        = list(string)
  default     = []
  description = "With endpoints, the route tables of your instances' subnets."
}
