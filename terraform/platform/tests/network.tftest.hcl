# What network.tf, nat.tf and flow_logs.tf promise.

mock_provider "aws" {
  # Values of the right form, so that the real provider takes them too.
  mock_data "aws_caller_identity" { defaults = { account_id = "123456789012" } }
  mock_data "aws_partition" { defaults = { partition = "aws" } }
  mock_data "aws_iam_policy_document" { defaults = { json = "{}" } } # decoded in ../../testkit/tests
  mock_data "aws_ssm_parameter" { defaults = { value = "ami-0123456789abcdef0" } }
  mock_data "aws_kms_alias" { defaults = { target_key_arn = "arn:aws:kms:us-east-1:123456789012:key/00000000-0000-0000-0000-000000000000" } }
  mock_data "aws_route53_zone" { defaults = { zone_id = "Z0123456789ABCDEFGHIJ" } }
  mock_resource "aws_acm_certificate" {
    defaults = {
      domain_validation_options = [
        { domain_name = "dev.payments.xpto.example", resource_record_name = "_1", resource_record_type = "CNAME", resource_record_value = "_2" },
        { domain_name = "staging.payments.xpto.example", resource_record_name = "_1", resource_record_type = "CNAME", resource_record_value = "_2" },
        { domain_name = "payments.xpto.example", resource_record_name = "_1", resource_record_type = "CNAME", resource_record_value = "_2" },
      ]
    }
  }
}

run "every_tier_has_its_zones" {
  command = plan

  assert {
    condition     = { for tier in ["private", "database", "public"] : tier => length(distinct([for s in aws_subnet.this : s.availability_zone if s.tags["tier"] == tier])) } == { private = 3, database = 3, public = 2 }
    error_message = "Nodes and databases span three zones; what is public, two."
  }
}

run "no_subnet_gives_public_addresses" {
  command = plan

  assert {
    condition     = alltrue([for s in aws_subnet.this : !s.map_public_ip_on_launch])
    error_message = "A machine gets a public address only by being asked to."
  }
}

run "databases_have_no_way_out" {
  command = plan

  assert {
    condition     = toset(keys(aws_route.nat)) == toset(var.network.zones) && toset(keys(aws_route_table.this)) == toset(concat(["public", "database"], [for z in var.network.zones : "private-${z}"]))
    error_message = "Only private subnets have a route through NAT; there is none in the databases' table."
  }
}

run "nat_is_a_machine_in_nonprod_and_two_gateways_in_production" {
  command = plan

  assert {
    condition     = [length(aws_instance.nat), length(aws_nat_gateway.this)] == { nonprod = [1, 0], production = [0, 2] }[var.name]
    error_message = "docs/cost.md counts on one machine in nonprod and gateways in two zones in production."
  }

  assert {
    condition     = alltrue([for i in aws_instance.nat : i.source_dest_check == false && one(i.metadata_options).http_tokens == "required" && one(i.root_block_device).encrypted])
    error_message = "The machine forwards, takes only IMDSv2, and has an encrypted disk."
  }
}

run "only_nat_speaks_to_everyone" {
  command = plan

  assert {
    condition     = alltrue([for rule in aws_vpc_security_group_ingress_rule.nat : rule.cidr_ipv4 == var.network.cidr])
    error_message = "Nothing from outside the VPC comes in."
  }
}

run "image_layers_do_not_go_through_nat" {
  command = plan

  assert {
    condition     = aws_vpc_endpoint.s3.vpc_endpoint_type == "Gateway"
    error_message = "S3 is reached through the endpoint that costs nothing."
  }
}

run "production_keeps_a_record_of_refused_connections" {
  command = plan

  assert {
    condition     = length(aws_flow_log.this) == (var.name == "production" ? 1 : 0) && alltrue([for log in aws_flow_log.this : log.traffic_type == "REJECT"])
    error_message = "Refused connections are recorded in production, where it is paid for."
  }
}
