// openapi-generator's client for Go.
package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"

	api "clients/go-openapi-generator"
)

// cents returns a payment's value exactly: a float64 is never half a cent away.
func cents(payment float64) int64 {
	return int64(math.Round(payment * 100))
}

func text(payment api.NullableFloat64) string {
	value := cents(*payment.Get())
	return fmt.Sprintf("%d.%02d", value/100, value%100)
}

func values(payments []api.Payment) string {
	var all []string
	for _, one := range payments {
		all = append(all, text(one.Payment))
	}
	return strings.Join(all, " ")
}

func must[T any](value T, _ any, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func problem(err error) api.Problem {
	var failure *api.GenericOpenAPIError
	if !errors.As(err, &failure) {
		panic(fmt.Sprint("no problem: ", err))
	}
	return failure.Model().(api.Problem)
}

func main() {
	configuration := api.NewConfiguration()
	configuration.Servers = api.ServerConfigurations{{URL: os.Getenv("URL")}}
	client := api.NewAPIClient(configuration)
	payments := client.PaymentsAPI
	ctx := context.WithValue(context.Background(), api.ContextAccessToken, os.Getenv("KEY"))

	create := func(value, key string) (*api.Payment, error) {
		input := *api.NewPaymentInput(api.Value{String: &value})
		made, _, err := payments.CreatePayment(ctx).PaymentInput(input).IdempotencyKey(key).Execute()
		return made, err
	}
	var ids []int64
	for _, value := range []string{"0.10", "12345.67", "99999.99"} {
		made, err := create(value, "key-"+value)
		made = must(made, nil, err)
		ids = append(ids, made.Id)
		fmt.Println("create", made.Id, text(made.Payment), made.Status)
	}
	id := ids[0]

	again, err := create("0.10", "key-0.10")
	fmt.Println("replay", must(again, nil, err).Id)

	page := must(payments.ListPayments(ctx).Limit(2).Execute())
	fmt.Println("page", values(page.Items))
	page = must(payments.ListPayments(ctx).Limit(2).Cursor(*page.Next.Get()).Execute())
	fmt.Println("page", values(page.Items))

	consume := *api.NewStatusChange(api.CONSUMED)
	consumed := must(payments.UpdatePayment(ctx, id).StatusChange(consume).Execute())
	fmt.Println("consume", consumed.Status, *consumed.ConsumedBy.Get())
	_, _, err = payments.UpdatePayment(ctx, id).StatusChange(consume).Execute()
	conflict := problem(err)
	fmt.Println("conflict", conflict.Status, conflict.Type, *conflict.ConsumedBy)

	limit := int32(10)
	rest := must(payments.ConsumePayments(ctx).ConsumptionInput(api.ConsumptionInput{Limit: &limit}).Execute())
	fmt.Println("consumption", values(rest.Items))

	if _, err = payments.DeletePayment(ctx, id).Execute(); err != nil {
		panic(err)
	}
	_, _, err = payments.ReadPayment(ctx, id).Execute()
	missing := problem(err)
	fmt.Println("deleted", missing.Status, missing.Type)

	_, err = create("0.20", "key-0.10")
	reused := problem(err)
	fmt.Println("reused", reused.Status, reused.Type, *reused.PaymentId)

	value := "0.10"
	input := api.OldPaymentInput{Payment: &api.OldValue{String: &value}}
	old := must(client.OldRoutesAPI.OldCreate(ctx).OldPaymentInput(input).Execute())
	fmt.Println("old", text(old.Payment), old.Status)
}
