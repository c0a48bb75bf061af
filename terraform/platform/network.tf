# The VPC: three zones, each with a private subnet for nodes and pods and one for databases, which
# nothing routes to or from outside; public subnets hold only the load balancer and NAT (nat.tf).
#
#   10.x.0.0/16    private  10.x.0.0/18   10.x.64.0/18  10.x.128.0/18   16,379 addresses for pods
#                  public   10.x.192.0/24 …             one in each of public_zones
#                  database 10.x.208.0/24 …

locals {
  # The tags are how the in-cluster controllers and ../environment find subnets.
  subnets = merge(
    { for i, zone in var.network.zones : "private-${zone}" => {
      zone = zone, tier = "private", cidr = cidrsubnet(var.network.cidr, 2, i), tags = { "kubernetes.io/role/internal-elb" = "1" }
    } },
    { for i, zone in slice(var.network.zones, 0, var.network.public_zones) : "public-${zone}" => {
      zone = zone, tier = "public", cidr = cidrsubnet(var.network.cidr, 8, 192 + i), tags = { "kubernetes.io/role/elb" = "1" }
    } },
    { for i, zone in var.network.zones : "database-${zone}" => {
      zone = zone, tier = "database", cidr = cidrsubnet(var.network.cidr, 8, 208 + i), tags = {}
    } },
  )
}

resource "aws_vpc" "this" {
  cidr_block           = var.network.cidr
  enable_dns_support   = true
  enable_dns_hostnames = true

  tags = { Name = local.name }
}

resource "aws_subnet" "this" {
  for_each = local.subnets

  vpc_id                  = aws_vpc.this.id
  availability_zone       = each.value.zone
  cidr_block              = each.value.cidr
  map_public_ip_on_launch = false

  tags = merge(each.value.tags, { Name = "${local.name}-${each.key}", tier = each.value.tier })
}

resource "aws_internet_gateway" "this" {
  vpc_id = aws_vpc.this.id

  tags = { Name = local.name }
}

# One table for what is public, one for databases, and one a zone for what leaves through NAT.
resource "aws_route_table" "this" {
  for_each = toset(concat(["public", "database"], [for zone in var.network.zones : "private-${zone}"]))

  vpc_id = aws_vpc.this.id

  tags = { Name = "${local.name}-${each.key}" }
}

resource "aws_route_table_association" "this" {
  for_each = local.subnets

  subnet_id      = aws_subnet.this[each.key].id
  route_table_id = aws_route_table.this[each.value.tier == "private" ? each.key : each.value.tier].id
}

resource "aws_route" "internet" {
  route_table_id         = aws_route_table.this["public"].id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.this.id
}

# Image layers come from S3: free on this way, $0.045 a gigabyte through a NAT gateway.
resource "aws_vpc_endpoint" "s3" {
  vpc_id            = aws_vpc.this.id
  service_name      = "com.amazonaws.${var.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = [for zone in var.network.zones : aws_route_table.this["private-${zone}"].id]

  tags = { Name = "${local.name}-s3" }
}

# Nobody uses the group that every VPC has; without rules nobody can by mistake.
resource "aws_default_security_group" "this" {
  vpc_id = aws_vpc.this.id

  tags = { Name = "${local.name}-unused" }
}
