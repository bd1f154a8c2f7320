# Perdure's management server for a small team: the same as deploy/cloudformation/server.yaml. docs/server-stack.md says how.
# Nobody has run it. A test holds each argument against what the provider takes (5.40 and 6.66).

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.40"
    }
  }
}

data "aws_caller_identity" "this" {}
data "aws_partition" "this" {}
data "aws_region" "this" {}
data "aws_subnet" "this" {
  id = var.subnet
}
data "aws_ssm_parameter" "debian" {
  name = "/aws/service/debian/release/12/latest/amd64"
}

locals {
  account   = data.aws_caller_identity.this.account_id
  partition = data.aws_partition.this.partition
  region    = data.aws_region.this.id
  # deploy/iam has the rights of each process once, for all stacks.
  policies = {
    for name in ["control", "agent"] : name => jsonencode({
      Version = "2012-10-17"
      Statement = concat(
        jsondecode(
          replace(
            replace(
              replace(file("${path.module}/../iam/${name}.json"), "REPLACE-ME-BUCKET/perdure-release/", "${var.source_bucket}/"),
              "REPLACE-ME-BUCKET", aws_s3_bucket.store.id
            ),
            "arn:aws:", "arn:${local.partition}:"
          )
        ).Statement,
        [{ Sid = "UseTheKey", Effect = "Allow", Action = ["kms:Decrypt", "kms:GenerateDataKey"], Resource = aws_kms_key.this.arn }]
      )
    })
  }
}

resource "aws_kms_key" "this" {
  description         = "Perdure's checkpoints, its server's data, its queue."
  enable_key_rotation = true
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "TheAccountDecides"
        Effect    = "Allow"
        Principal = { AWS = "arn:${local.partition}:iam::${local.account}:root" }
        Action    = "kms:*"
        Resource  = "*"
      },
      {
        Sid       = "EventsIntoTheQueueAndAlarmsOut"
        Effect    = "Allow"
        Principal = { Service = ["events.amazonaws.com", "cloudwatch.amazonaws.com"] }
        Action    = ["kms:GenerateDataKey", "kms:Decrypt"]
        Resource  = "*"
        Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
      },
    ]
  })
  tags = { "perdure:part" = "key" }
}

resource "aws_s3_bucket" "store" {
  bucket_prefix = "perdure-store-"
  tags          = { "perdure:part" = "store" }
  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "store" {
  bucket = aws_s3_bucket.store.id
  rule {
    bucket_key_enabled = true
    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = aws_kms_key.this.arn
    }
  }
}

resource "aws_s3_bucket_public_access_block" "store" {
  bucket                  = aws_s3_bucket.store.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_lifecycle_configuration" "store" {
  bucket = aws_s3_bucket.store.id
  rule {
    id     = "TornUploads"
    status = "Enabled"
    filter {}
    abort_incomplete_multipart_upload {
      days_after_initiation = 2
    }
  }
}

resource "aws_s3_bucket_policy" "store" {
  bucket = aws_s3_bucket.store.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "TlsOnly"
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:*"
      Resource  = [aws_s3_bucket.store.arn, "${aws_s3_bucket.store.arn}/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })
}

# A queue for each: thousands of jobs change at once, and no warning shall wait behind them.
locals {
  events = {
    "interruptions" = {
      description = "What AWS announces of instances, to Perdure's control worker."
      pattern = jsonencode({
        source = ["aws.ec2"]
        "detail-type" = [
          "EC2 Spot Instance Interruption Warning",
          "EC2 Instance Rebalance Recommendation",
          "EC2 Capacity Reservation Instance Interruption Warning",
          "EC2 Interruptible Capacity Reservation Instance Interruption Warning",
        ]
      })
      # A warning is good for two minutes; an old one only tells what has happened.
      kept_seconds   = 300
      hidden_seconds = 30
      tries          = 5
    }
    "job-events" = {
      description = "What becomes of Batch jobs, to Perdure's control worker."
      pattern = jsonencode({
        source        = ["aws.batch"]
        "detail-type" = ["Batch Job State Change"]
        detail = {
          status   = ["RUNNABLE", "RUNNING", "SUCCEEDED", "FAILED"]
          jobQueue = jsondecode(length(var.job_queues) == 0 ? jsonencode([{ prefix = "arn:" }]) : jsonencode(var.job_queues))
        }
      })
      # Long enough for a server that is away over a weekend.
      kept_seconds   = 345600
      hidden_seconds = 60
      tries          = 20
    }
  }
}

resource "aws_sqs_queue" "not_read" {
  for_each                  = local.events
  name                      = "perdure-${each.key}-not-read"
  message_retention_seconds = 1209600
  kms_master_key_id         = aws_kms_key.this.id
  tags                      = { "perdure:part" = each.key }
}

resource "aws_sqs_queue" "events" {
  for_each                   = local.events
  name                       = "perdure-${each.key}"
  message_retention_seconds  = each.value.kept_seconds
  visibility_timeout_seconds = each.value.hidden_seconds
  kms_master_key_id          = aws_kms_key.this.id
  tags                       = { "perdure:part" = each.key }
  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.not_read[each.key].arn
    maxReceiveCount     = each.value.tries
  })
}

resource "aws_cloudwatch_event_rule" "events" {
  for_each      = local.events
  name_prefix   = "perdure-"
  description   = each.value.description
  event_pattern = each.value.pattern
}

resource "aws_cloudwatch_event_target" "events" {
  for_each = local.events
  rule     = aws_cloudwatch_event_rule.events[each.key].name
  arn      = aws_sqs_queue.events[each.key].arn
}

resource "aws_sqs_queue_policy" "events" {
  for_each  = local.events
  queue_url = aws_sqs_queue.events[each.key].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "EventsOfThisAccount"
      Effect    = "Allow"
      Principal = { Service = "events.amazonaws.com" }
      Action    = "sqs:SendMessage"
      Resource  = aws_sqs_queue.events[each.key].arn
      Condition = { ArnEquals = { "aws:SourceArn" = aws_cloudwatch_event_rule.events[each.key].arn } }
    }]
  })
}

resource "aws_security_group" "instances" {
  name_prefix = "perdure-instances-"
  description = "Instances of compute environments that Perdure protects"
  vpc_id      = var.vpc
  egress {
    description = "What jobs need"
    protocol    = "-1"
    from_port   = 0
    to_port     = 0
    cidr_blocks = ["0.0.0.0/0"]
  }
  tags = { "perdure:part" = "instances" }
}

resource "aws_security_group" "server" {
  name_prefix = "perdure-server-"
  description = "The management server of Perdure"
  vpc_id      = var.vpc
  ingress {
    description = "Console and API"
    protocol    = "tcp"
    from_port   = 8443
    to_port     = 8443
    cidr_blocks = [var.administrators_cidr]
  }
  ingress {
    description     = "Agents, by the gate before Temporal"
    protocol        = "tcp"
    from_port       = 7234
    to_port         = 7234
    security_groups = [aws_security_group.instances.id]
  }
  egress {
    description = "AWS, apt, image registries"
    protocol    = "-1"
    from_port   = 0
    to_port     = 0
    cidr_blocks = ["0.0.0.0/0"]
  }
  tags = { "perdure:part" = "server" }
}

resource "aws_iam_role" "server" {
  name_prefix = "perdure-server-"
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Principal = { Service = "ec2.amazonaws.com" }, Action = "sts:AssumeRole" }]
  })
  tags = { "perdure:part" = "server" }
}

resource "aws_iam_role_policy_attachment" "session_manager" {
  role       = aws_iam_role.server.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/AmazonSSMManagedInstanceCore"
}

resource "aws_iam_role_policy" "control" {
  name   = "control"
  role   = aws_iam_role.server.id
  policy = local.policies["control"]
}

resource "aws_iam_role_policy" "first_boot" {
  name = "first-boot"
  role = aws_iam_role.server.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid      = "FetchTheSource"
      Effect   = "Allow"
      Action   = "s3:GetObject"
      Resource = "arn:${local.partition}:s3:::${var.source_bucket}/*"
    }]
  })
}

resource "aws_iam_instance_profile" "server" {
  role = aws_iam_role.server.name
}

resource "aws_iam_policy" "agent" {
  name_prefix = "perdure-agent-"
  description = "For the role of your instances, beside AmazonEC2ContainerServiceforEC2Role"
  policy      = local.policies["agent"]
}

resource "aws_ebs_volume" "data" {
  availability_zone = data.aws_subnet.this.availability_zone
  size              = var.data_gib
  type              = "gp3"
  encrypted         = true
  kms_key_id        = aws_kms_key.this.arn
  final_snapshot    = true
  tags              = { Name = "perdure server", "perdure:part" = "data" }
}

resource "aws_instance" "server" {
  ami                    = data.aws_ssm_parameter.debian.value
  instance_type          = var.instance_type
  subnet_id              = var.subnet
  vpc_security_group_ids = [aws_security_group.server.id]
  iam_instance_profile   = aws_iam_instance_profile.server.name
  root_block_device {
    volume_size = 20
    volume_type = "gp3"
    encrypted   = true
  }
  # 2: containers are one network hop further from the metadata service.
  metadata_options {
    http_tokens                 = "required"
    http_put_response_hop_limit = 2
  }
  user_data = templatefile("${path.module}/user-data.sh", {
    region     = local.region
    source     = var.source_archive
    sha256     = var.source_sha256
    volume     = aws_ebs_volume.data.id
    queue      = aws_sqs_queue.events["interruptions"].url
    job_events = aws_sqs_queue.events["job-events"].url
    job_queues = join(",", var.job_queues)
  })
  tags = { Name = "perdure server", "perdure:part" = "server" }
  lifecycle {
    ignore_changes = [ami]
  }
}

resource "aws_volume_attachment" "data" {
  device_name = "/dev/sdf"
  volume_id   = aws_ebs_volume.data.id
  instance_id = aws_instance.server.id
}

resource "aws_vpc_endpoint" "s3" {
  count           = var.endpoints == "no" ? 0 : 1
  vpc_id          = var.vpc
  service_name    = "com.amazonaws.${local.region}.s3"
  route_table_ids = var.route_tables
}

resource "aws_security_group" "endpoints" {
  count       = var.endpoints == "all" ? 1 : 0
  name_prefix = "perdure-endpoints-"
  description = "Interface endpoints of Perdure"
  vpc_id      = var.vpc
  ingress {
    description     = "Server and jobs"
    protocol        = "tcp"
    from_port       = 443
    to_port         = 443
    security_groups = [aws_security_group.server.id, aws_security_group.instances.id]
  }
}

resource "aws_vpc_endpoint" "interface" {
  for_each            = var.endpoints == "all" ? toset(["ec2", "batch", "sqs", "logs"]) : toset([])
  vpc_id              = var.vpc
  service_name        = "com.amazonaws.${local.region}.${each.key}"
  vpc_endpoint_type   = "Interface"
  private_dns_enabled = true
  subnet_ids          = [var.subnet]
  security_group_ids  = [aws_security_group.endpoints[0].id]
}

resource "aws_sns_topic" "alarms" {
  name_prefix       = "perdure-"
  kms_master_key_id = aws_kms_key.this.id
}

resource "aws_sns_topic_subscription" "alarms" {
  count     = var.alarm_address == "" ? 0 : 1
  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = var.alarm_address
}

resource "aws_cloudwatch_metric_alarm" "server_gone" {
  alarm_name          = "perdure-server-gone"
  alarm_description   = "The server's instance or its host is broken. Running jobs go on; nothing new is protected."
  namespace           = "AWS/EC2"
  metric_name         = "StatusCheckFailed"
  dimensions          = { InstanceId = aws_instance.server.id }
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 3
  threshold           = 1
  comparison_operator = "GreaterThanOrEqualToThreshold"
  treat_missing_data  = "breaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]
}

resource "aws_cloudwatch_metric_alarm" "warnings_not_read" {
  alarm_name          = "perdure-warnings-not-read"
  alarm_description   = "Interruption warnings wait for longer than a minute, so the control worker does not read them."
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateAgeOfOldestMessage"
  dimensions          = { QueueName = aws_sqs_queue.events["interruptions"].name }
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 2
  threshold           = 60
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
}

resource "aws_cloudwatch_metric_alarm" "job_events_not_read" {
  alarm_name          = "perdure-job-events-not-read"
  alarm_description   = "Events about jobs wait for longer than a quarter of an hour."
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateAgeOfOldestMessage"
  dimensions          = { QueueName = aws_sqs_queue.events["job-events"].name }
  statistic           = "Maximum"
  period              = 300
  evaluation_periods  = 3
  threshold           = 900
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
}

resource "aws_cloudwatch_metric_alarm" "data_busy" {
  alarm_name          = "perdure-data-busy"
  alarm_description   = "Requests wait for the server's data volume."
  namespace           = "AWS/EBS"
  metric_name         = "VolumeQueueLength"
  dimensions          = { VolumeId = aws_ebs_volume.data.id }
  statistic           = "Average"
  period              = 300
  evaluation_periods  = 3
  threshold           = 8
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
}
