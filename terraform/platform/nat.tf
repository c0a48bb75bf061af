# How private subnets reach the internet (network.tf has the rest of the VPC): to pull images, for
# the DNS records of external-dns and the credentials of Pod Identity. No payment passes here: the
# load balancer and the database are inside. docs/decisions/ has the prices of each way.

locals {
  nat_zones     = slice(var.network.zones, 0, var.network.nat.zones)
  nat_gateways  = var.network.nat.kind == "gateway" ? toset(local.nat_zones) : toset([])
  nat_instances = var.network.nat.kind == "instance" ? toset(local.nat_zones) : toset([])

  # A zone without a NAT of its own leaves through the first one.
  nat_of = { for zone in var.network.zones : zone => contains(local.nat_zones, zone) ? zone : local.nat_zones[0] }
}

resource "aws_route" "nat" {
  for_each = local.nat_of

  route_table_id         = aws_route_table.this["private-${each.key}"].id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = var.network.nat.kind == "gateway" ? aws_nat_gateway.this[each.value].id : null
  network_interface_id   = var.network.nat.kind == "instance" ? aws_instance.nat[each.value].primary_network_interface_id : null
}

resource "aws_eip" "nat" {
  # checkov:skip=CKV2_AWS_19: it is a NAT gateway's
  for_each = local.nat_gateways

  domain = "vpc"

  tags = { Name = "${local.name}-nat-${each.key}" }
}

resource "aws_nat_gateway" "this" {
  for_each = local.nat_gateways

  allocation_id = aws_eip.nat[each.key].id
  subnet_id     = aws_subnet.this["public-${each.key}"].id

  tags = { Name = "${local.name}-${each.key}" }

  depends_on = [aws_internet_gateway.this]
}

# The machine that nonprod uses instead: Amazon Linux that forwards and masquerades. EC2 restarts it
# on other hardware when its own fails; `-replace` brings a new one with the newest system.
resource "aws_instance" "nat" {
  # checkov:skip=CKV_AWS_88: a NAT without a public address would lead nowhere
  # checkov:skip=CKV_AWS_126: five-minute metrics are enough for a machine that only forwards
  # checkov:skip=CKV2_AWS_41: it calls no AWS API, so it has no role
  for_each = local.nat_instances

  ami                         = data.aws_ssm_parameter.amazon_linux.value
  instance_type               = "t4g.nano" # 32 Mbit/s without end, 5 Gbit/s for minutes: image pulls
  subnet_id                   = aws_subnet.this["public-${each.key}"].id
  vpc_security_group_ids      = [aws_security_group.nat[0].id]
  associate_public_ip_address = true
  source_dest_check           = false
  ebs_optimized               = true
  user_data_replace_on_change = true

  user_data = <<-EOT
    #!/bin/bash
    set -euo pipefail
    until dnf install --assumeyes nftables; do sleep 5; done
    echo net.ipv4.ip_forward=1 >/etc/sysctl.d/90-nat.conf
    sysctl --load /etc/sysctl.d/90-nat.conf
    cat >/etc/sysconfig/nftables.conf <<'RULES'
    table ip nat {
      chain postrouting {
        type nat hook postrouting priority srcnat;
        ip saddr ${var.network.cidr} ip daddr != ${var.network.cidr} masquerade
      }
    }
    RULES
    systemctl enable --now nftables
  EOT

  metadata_options {
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  root_block_device {
    volume_type = "gp3"
    volume_size = 8
    encrypted   = true
  }

  lifecycle {
    ignore_changes = [ami] # a newer image must not end the way out in the middle of another change
  }

  tags = { Name = "${local.name}-nat-${each.key}" }

  depends_on = [aws_route.internet]
}

data "aws_ssm_parameter" "amazon_linux" {
  name = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64"
}

resource "aws_security_group" "nat" {
  count = length(local.nat_instances) > 0 ? 1 : 0

  name        = "${local.name}-nat"
  description = "From inside the VPC to anywhere"
  vpc_id      = aws_vpc.this.id

  tags = { Name = "${local.name}-nat" }
}

resource "aws_vpc_security_group_ingress_rule" "nat" {
  count = length(local.nat_instances) > 0 ? 1 : 0

  security_group_id = aws_security_group.nat[0].id
  description       = "What private subnets send out"
  cidr_ipv4         = var.network.cidr
  ip_protocol       = "-1"
}

resource "aws_vpc_security_group_egress_rule" "nat" {
  count = length(local.nat_instances) > 0 ? 1 : 0

  security_group_id = aws_security_group.nat[0].id
  description       = "To the internet, which is what it is for"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "-1"
}
