import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { ENVIRONMENT, type Resource, Synthesised, synthesised } from './synthesised.ts';

const STACK = 'CarapaceNetwork';
const subnets = (app: Synthesised, group: string) =>
  Object.entries(app.resources(STACK, 'AWS::EC2::Subnet'))
    .filter(([id]) => id.startsWith(`Vpc${group}Subnet`))
    .map(([, subnet]) => subnet);
const tags = (subnet: Resource) =>
  new Map<string, string>(subnet.Properties.Tags.map((tag: { Key: string; Value: string }) => [tag.Key, tag.Value]));

describe('the network', () => {
  test('nothing is looked up, with or without an account', () => {
    for (const context of [{}, ENVIRONMENT]) {
      expect(new Synthesised('aws', context).app.synth().manifest.missing).toBeUndefined();
    }
  });

  test('zones can be named, since EKS does not run in all of them', () => {
    const app = new Synthesised('aws', { ...ENVIRONMENT, availabilityZones: 'eu-central-1b,eu-central-1c' });
    expect(subnets(app, 'Nodes').map((subnet) => subnet.Properties.AvailabilityZone)).toEqual([
      'eu-central-1b',
      'eu-central-1c',
    ]);
  });

  test('functions have subnets of their own, which load balancers and nodes stay out of', () => {
    const functions = subnets(synthesised('aws'), 'Functions');
    expect(functions).toHaveLength(3);
    for (const subnet of functions) {
      expect([...tags(subnet).keys()]).not.toContain('kubernetes.io/role/internal-elb');
      expect([...tags(subnet).keys()]).not.toContain('karpenter.sh/discovery');
    }
    const cidrs = functions.map((subnet) => subnet.Properties.CidrBlock);
    expect(cidrs).toEqual(['10.20.96.0/24', '10.20.97.0/24', '10.20.98.0/24']);
  });

  test('Karpenter and load balancers find the subnets of nodes', () => {
    const nodes = subnets(synthesised('aws'), 'Nodes');
    expect(nodes).toHaveLength(3);
    for (const subnet of nodes) {
      expect(tags(subnet).get('karpenter.sh/discovery')).toBe('carapace');
      expect(tags(subnet).get('kubernetes.io/role/internal-elb')).toBe('1');
    }
  });

  test('the example network policies speak of these subnets and of no other address of the VPC', () => {
    const blocks = (group: string) => subnets(synthesised('aws'), group).map((subnet) => subnet.Properties.CidrBlock);
    const [nodes, functions] = [blocks('Nodes'), blocks('Functions')];
    const resolver = '10.20.0.2/32';
    const folder = new URL('../../cluster/examples/network-policies/', import.meta.url);
    const named = Object.fromEntries(
      readdirSync(folder)
        .filter((file) => file.endsWith('.yaml'))
        .map((file) => {
          const cidrs = [...readFileSync(new URL(file, folder), 'utf8').matchAll(/cidr: (10\.20\.\S+)/g)];
          return [file, [...new Set(cidrs.map(([, cidr]) => cidr))].sort()];
        }),
    );
    expect(named).toEqual({
      'kube-system.yaml': [resolver, ...nodes].sort(),
      'agent-sandbox-system.yaml': [...nodes].sort(),
      'model-gateway.yaml': [...nodes, ...functions].sort(),
    });
  });

  test('every packet is logged', () => {
    synthesised('aws')
      .template(STACK)
      .hasResourceProperties('AWS::EC2::FlowLog', { ResourceType: 'VPC', TrafficType: 'ALL' });
  });

  test('S3 and DynamoDB are reached without NAT, from every private subnet', () => {
    const endpoints = Object.values(synthesised('aws').resources(STACK, 'AWS::EC2::VPCEndpoint'));
    expect(endpoints.map(({ Properties }) => [Properties.VpcEndpointType, Properties.RouteTableIds.length])).toEqual([
      ['Gateway', 9],
      ['Gateway', 9],
    ]);
  });
});
