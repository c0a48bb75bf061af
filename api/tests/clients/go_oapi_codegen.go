// oapi-codegen's client for Go.
package main

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"os"
	"strings"

	api "clients/go-oapi-codegen"
)

func text(payment *float64) string {
	cents := int64(math.Round(*payment * 100))
	return fmt.Sprintf("%d.%02d", cents/100, cents%100)
}

func values(payments []api.Payment) string {
	var all []string
	for _, one := range payments {
		all = append(all, text(one.Payment))
	}
	return strings.Join(all, " ")
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func main() {
	ctx := context.Background()
	authenticate := func(_ context.Context, request *http.Request) error {
		request.Header.Set("Authorization", "Bearer "+os.Getenv("KEY"))
		return nil
	}
	client := must(api.NewClientWithResponses(os.Getenv("URL"), api.WithRequestEditorFn(authenticate)))

	create := func(text, key string) *api.CreatePaymentResponse {
		var value api.Value
		if err := value.FromValue0(text); err != nil {
			panic(err)
		}
		parameters := &api.CreatePaymentParams{IdempotencyKey: &key}
		return must(client.CreatePaymentWithResponse(ctx, parameters, api.PaymentInput{Payment: value}))
	}
	var ids []int64
	for _, value := range []string{"0.10", "12345.67", "99999.99"} {
		made := create(value, "key-"+value).JSON201
		ids = append(ids, made.Id)
		fmt.Println("create", made.Id, text(made.Payment), made.Status)
	}
	id := ids[0]

	fmt.Println("replay", create("0.10", "key-0.10").JSON201.Id)

	limit := 2
	page := must(client.ListPaymentsWithResponse(ctx, &api.ListPaymentsParams{Limit: &limit})).JSON200
	fmt.Println("page", values(page.Items))
	next := &api.ListPaymentsParams{Limit: &limit, Cursor: page.Next}
	page = must(client.ListPaymentsWithResponse(ctx, next)).JSON200
	fmt.Println("page", values(page.Items))

	consume := api.StatusChange{Status: api.Consumed}
	consumed := must(client.UpdatePaymentWithResponse(ctx, id, nil, consume)).JSON200
	fmt.Println("consume", consumed.Status, *consumed.ConsumedBy)
	conflict := must(client.UpdatePaymentWithResponse(ctx, id, nil, consume)).ApplicationproblemJSON409
	fmt.Println("conflict", conflict.Status, conflict.Type, *conflict.ConsumedBy)

	many := 10
	rest := must(client.ConsumePaymentsWithResponse(ctx, nil, api.ConsumptionInput{Limit: &many})).JSON200
	fmt.Println("consumption", values(rest.Items))

	must(client.DeletePaymentWithResponse(ctx, id, nil))
	missing := must(client.ReadPaymentWithResponse(ctx, id, nil)).ApplicationproblemJSON404
	fmt.Println("deleted", missing.Status, missing.Type)

	reused := create("0.20", "key-0.10").ApplicationproblemJSON422
	fmt.Println("reused", reused.Status, reused.Type, *reused.PaymentId)

	var value api.OldValue
	if err := value.FromOldValue0("0.10"); err != nil {
		panic(err)
	}
	old := must(client.OldCreateWithResponse(ctx, nil, api.OldPaymentInput{Payment: &value})).JSON200
	fmt.Println("old", text(old.Payment), old.Status)
}
