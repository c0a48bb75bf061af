# A certificate for each environment's host name: one more replaces none that the load balancer holds.
# The zones are ../bootstrap's; the records that point at the load balancer are made by external-dns
# (addons.tf) from ../../charts/payments.

data "aws_route53_zone" "this" {
  for_each = var.domains

  name = each.value
}

resource "aws_acm_certificate" "this" {
  for_each = var.domains

  domain_name       = each.value
  validation_method = "DNS"
  key_algorithm     = "EC_prime256v1" # a third of RSA's handshake cost

  lifecycle {
    create_before_destroy = true
  }
}

locals {
  validation = { for environment, certificate in aws_acm_certificate.this : environment => one([
    for option in certificate.domain_validation_options : option if option.domain_name == var.domains[environment]
  ]) }
}

resource "aws_route53_record" "validation" {
  for_each = var.domains

  zone_id = data.aws_route53_zone.this[each.key].zone_id
  name    = local.validation[each.key].resource_record_name
  type    = local.validation[each.key].resource_record_type
  ttl     = 300
  records = [local.validation[each.key].resource_record_value]
}

# Waits until the zone is really delegated: without it the load balancer would be made without TLS.
resource "aws_acm_certificate_validation" "this" {
  for_each = aws_acm_certificate.this

  certificate_arn         = each.value.arn
  validation_record_fqdns = [aws_route53_record.validation[each.key].fqdn]
}
