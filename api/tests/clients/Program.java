// openapi-generator's client for Java, on the JDK's own HTTP client.
import com.fasterxml.jackson.databind.ObjectMapper;
import java.math.BigDecimal;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Collectors;
import org.openapitools.client.ApiClient;
import org.openapitools.client.ApiException;
import org.openapitools.client.api.OldRoutesApi;
import org.openapitools.client.api.PaymentsApi;
import org.openapitools.client.model.ConsumptionInput;
import org.openapitools.client.model.OldPaymentInput;
import org.openapitools.client.model.OldValue;
import org.openapitools.client.model.Page;
import org.openapitools.client.model.Payment;
import org.openapitools.client.model.PaymentInput;
import org.openapitools.client.model.Problem;
import org.openapitools.client.model.Status;
import org.openapitools.client.model.StatusChange;
import org.openapitools.client.model.Value;

class Program {
  static final ObjectMapper JSON = ApiClient.createDefaultObjectMapper();

  /** Returns a payment's value exactly: a double's shortest form is what the service sent. */
  static BigDecimal exact(Double payment) {
    return BigDecimal.valueOf(payment).setScale(2);
  }

  static String values(List<Payment> payments) {
    return payments.stream().map(one -> exact(one.getPayment()).toString()).collect(Collectors.joining(" "));
  }

  interface Request {
    void send() throws ApiException;
  }

  static Problem problem(Request request) throws Exception {
    try {
      request.send();
    } catch (ApiException error) {
      return JSON.readValue(error.getResponseBody(), Problem.class);
    }
    throw new IllegalStateException("The request succeeded");
  }

  static PaymentInput payment(String value) {
    return new PaymentInput().payment(new Value(value));
  }

  public static void main(String[] arguments) throws Exception {
    ApiClient client = new ApiClient();
    client.updateBaseUri(System.getenv("URL"));
    client.setRequestInterceptor(
        request -> request.header("Authorization", "Bearer " + System.getenv("KEY")));
    PaymentsApi payments = new PaymentsApi(client);

    List<Payment> made = new ArrayList<>();
    for (String value : List.of("0.10", "12345.67", "99999.99")) {
      Payment one = payments.createPayment(payment(value), "key-" + value, null);
      made.add(one);
      System.out.println("create " + one.getId() + " " + exact(one.getPayment()) + " " + one.getStatus());
    }
    Long id = made.get(0).getId();

    Payment again = payments.createPayment(payment("0.10"), "key-0.10", null);
    System.out.println("replay " + again.getId());

    String cursor = null;
    do {
      Page page = payments.listPayments(null, null, null, null, null, null, 2, cursor, null);
      System.out.println("page " + values(page.getItems()));
      cursor = page.getNext();
    } while (cursor != null);

    StatusChange consume = new StatusChange().status(Status.CONSUMED);
    Payment consumed = payments.updatePayment(id, consume, null, null, null, null);
    System.out.println("consume " + consumed.getStatus() + " " + consumed.getConsumedBy());
    Problem conflict = problem(() -> payments.updatePayment(id, consume, null, null, null, null));
    System.out.println(
        "conflict " + conflict.getStatus() + " " + conflict.getType() + " " + conflict.getConsumedBy());

    ConsumptionInput several = new ConsumptionInput().limit(10);
    System.out.println("consumption " + values(payments.consumePayments(several, null, null).getItems()));

    payments.deletePayment(id, null, null, null);
    Problem missing = problem(() -> payments.readPayment(id, null, null, null));
    System.out.println("deleted " + missing.getStatus() + " " + missing.getType());

    Problem reused = problem(() -> payments.createPayment(payment("0.20"), "key-0.10", null));
    System.out.println(
        "reused " + reused.getStatus() + " " + reused.getType() + " " + reused.getPaymentId());

    var old = new OldRoutesApi(client)
        .oldCreate(new OldPaymentInput().payment(new OldValue("0.10")), null, null);
    System.out.println("old " + exact(old.getPayment()) + " " + old.getStatus());
  }
}
